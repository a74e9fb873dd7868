"""Octets in files and spools are, to whoever reads them, like ``bytes``."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import StoredObjectDamaged, StoreFull
from gateway.sealing.reading import SeekableReader
from gateway.store.objects import ObjectReader
from gateway.store.octets import (
    FileOctets,
    HeldFile,
    Joined,
    LazyOctets,
    Stretch,
    after,
    part_of,
    pieces_of,
    sha256_of,
    stream_of,
)
from gateway.store.spool import Spool
from gateway.store.stream import Beginning

PARTS = st.lists(st.binary(max_size=40), max_size=6)
INDICES = st.integers(-130, 130)


def forms(parts: list[bytes]) -> list[LazyOctets]:
    """The same octets in every form there is."""
    whole = b"".join(parts)
    spool = Spool(in_memory=30)
    return [
        FileOctets(BytesIO(b"head" + whole), 4),
        Joined(parts),
        Joined([spool.add(part) for part in parts]),
        Stretch(Joined([b"before", whole, b"behind"]), 6, 6 + len(whole)),
    ]


@given(PARTS, INDICES, INDICES)
def test_slices_are_those_of_bytes(parts: list[bytes], start: int, end: int) -> None:
    whole = b"".join(parts)
    for octets in forms(parts):
        assert octets[start:end] == whole[start:end]
        assert octets[start:] == whole[start:]
        assert octets[:] == whole
        assert b"".join(pieces_of(octets)) == whole
        assert octets == whole
        assert hash(octets) == hash(whole)
        assert sha256_of(octets) == sha256_of(whole)
        assert after(octets, abs(start)) == whole[abs(start) :]
        assert part_of(octets, 3, 9) == whole[3:9]


@given(PARTS, st.lists(st.tuples(st.integers(0, 250), st.integers(0, 60)), max_size=8))
def test_streams_read_and_seek_as_those_of_bytes(
    parts: list[bytes], steps: list[tuple[int, int]]
) -> None:
    expected = BytesIO(b"".join(parts))
    for octets in forms(parts):
        stream = stream_of(octets)
        for place, size in steps:
            assert stream.seek(place) == expected.seek(place)
            assert stream.read(size) == expected.read(size)
            assert stream.tell() == expected.tell()


def test_what_differs_is_not_equal() -> None:
    one = Joined([b"abc", b"def"])
    assert one != b"abcdeg"
    assert one != b"abcde"
    assert one != "abcdef"
    with pytest.raises(ValueError, match="step"):
        one[::2]


def test_a_spool_keeps_little_in_memory_and_nothing_in_clear(tmp_path: Path) -> None:
    secret = b"PATIENT^NAME" * 1000
    spool = Spool(in_memory=100, directory=tmp_path)
    small, large = spool.add(b"small"), spool.add(secret)

    assert isinstance(small, bytes)
    assert not isinstance(large, bytes)
    assert list(tmp_path.iterdir()) == []  # it has no name
    written = b"".join(map(_content, open_below(tmp_path)))
    assert len(written) >= len(secret)
    assert b"PATIENT" not in written
    assert large[:] == secret


def open_below(directory: Path) -> list[Path]:
    """Descriptors of open files in a directory, deleted or not."""
    held = Path("/proc/self/fd").iterdir()
    return [path for path in held if _target(path).startswith(f"{directory}/")]


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""


def _content(path: Path) -> bytes:
    descriptor = int(path.name)
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def test_an_altered_spool_is_noticed(tmp_path: Path) -> None:
    spool = Spool(in_memory=0, directory=tmp_path)
    piece, other = spool.add(b"first" * 9), spool.add(b"other" * 9)
    (held,) = [
        p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in _target(p)
    ]
    os.pwrite(int(held.name), b"\0", 3)
    assert other[:] == b"other" * 9
    with pytest.raises(StoredObjectDamaged, match="check the disk"):
        piece[:]


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFull):
        Spool(in_memory=0).add(b"x")


def test_the_file_of_a_spool_is_closed_with_its_last_piece(tmp_path: Path) -> None:
    piece = Spool(in_memory=0, directory=tmp_path).add(b"kept")
    assert piece[:] == b"kept"
    del piece
    assert not [
        p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in _target(p)
    ]


@pytest.mark.parametrize(
    "stream",
    [
        lambda: Beginning(b"cont", 7, lambda: BytesIO(b"content")),
        lambda: ObjectReader(lambda at, n: b"content"[at : at + n], 7, b"cont"),
        lambda: stream_of(Joined([b"cont", b"ent"])),
    ],
)
def test_streams_go_nowhere_before_the_start(
    stream: Callable[[], SeekableReader],
) -> None:
    opened = stream()
    assert opened.seek(-4, os.SEEK_END) == 3
    assert opened.seek(1, os.SEEK_CUR) == opened.tell() == 4
    with pytest.raises(ValueError, match="position"):
        opened.seek(-1)
    with pytest.raises(ValueError, match="position"):
        opened.seek(-5, os.SEEK_CUR)
    assert opened.read() == b"ent"
    assert opened.seek(90) == 90
    assert opened.read() == opened.read(1) == b""


def test_a_held_file_closes_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    held = HeldFile(tmp_path / "file")
    assert (held.seek(-4, os.SEEK_END), held.read(2), held.read()) == (3, b"te", b"nt")
    del held
    assert not [
        p for p in Path("/proc/self/fd").iterdir() if str(tmp_path) in _target(p)
    ]
