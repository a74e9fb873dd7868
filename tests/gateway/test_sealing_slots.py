"""Master keys of sealed files changed in place, whatever stops it midway."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidSeal
from gateway.sealing.envelope import (
    open_bytes,
    open_sealed,
    rewrap,
    seal_bytes,
    sealed_under,
    shred,
)
from gateway.sealing.head import EMPTY, FIXED, SLOT, START, slots_of
from gateway.sealing.master import LocalMasterKey, MasterKey, unknown_key

OLD = LocalMasterKey(b"o" * 32)
NEW = LocalMasterKey(b"n" * 32)
CONTEXT, CONTENT = b"context", b"content" * 20


class Both:
    """Keys in rotation: the first is the current one."""

    def __init__(self, *keys: MasterKey) -> None:
        self.keys = keys

    def current(self) -> MasterKey:
        return self.keys[0]

    def by_id(self, key_id: str) -> MasterKey:
        for key in self.keys:
            if key.key_id == key_id:
                return key
        raise unknown_key(key_id)

    def known(self) -> tuple[MasterKey, ...]:
        return self.keys


ROTATING = Both(NEW, OLD)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "sealed"
    path.write_bytes(seal_bytes(CONTENT, OLD, CONTEXT))
    return path


def opens(path: Path, *keys: MasterKey) -> bool:
    return open_bytes(path.read_bytes(), Both(*keys)) == (CONTEXT, CONTENT)


def test_only_the_slots_change(path: Path) -> None:
    before = path.read_bytes()
    assert sealed_under(path) == {OLD.key_id}
    assert rewrap(path, ROTATING)
    after = path.read_bytes()
    assert sealed_under(path) == {NEW.key_id}
    assert before[: FIXED.size] == after[: FIXED.size]
    assert before[START:] == after[START:]
    assert opens(path, NEW)
    with pytest.raises(InvalidSeal, match=NEW.key_id):
        opens(path, OLD)


def test_there_and_back(path: Path) -> None:
    for keys in (Both(NEW, OLD), Both(OLD, NEW), Both(NEW, OLD)):
        assert rewrap(path, keys)
        assert not rewrap(path, keys)
        assert opens(path, keys.current())
        assert slots_of(path.read_bytes()).count(EMPTY) == 1


def test_a_file_that_does_not_open_is_left_alone(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(InvalidSeal):
        rewrap(path, NEW)
    assert path.read_bytes() == before
    path.write_bytes(b"no envelope, but long enough" * 20)
    for work in (sealed_under, shred, lambda each: rewrap(each, ROTATING)):
        with pytest.raises(InvalidSeal):
            work(path)
    assert path.read_bytes() == b"no envelope, but long enough" * 20


def test_a_link_is_not_followed(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(OSError, match="link") as refused:
        rewrap(link, ROTATING)
    assert refused.value.errno == errno.ELOOP
    assert sealed_under(path) == {OLD.key_id}


def test_a_master_key_that_wraps_what_it_cannot_open(path: Path) -> None:
    class Broken(LocalMasterKey):
        def wrap(self, data_key: bytes, context: bytes) -> bytes:
            return super().wrap(data_key, context + b"!")

    before = path.read_bytes()
    with pytest.raises(InvalidSeal):
        rewrap(path, Both(Broken(b"n" * 32), OLD))
    assert path.read_bytes() == before


class PowerFailure(Exception):
    """The machine stops here."""


def failing_after(octets: int) -> Callable[[int, bytes, int], int]:
    """``pwrite`` that stops the machine after so many octets of slots."""
    left = [octets]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        part = data[: left[0]]
        left[0] -= len(part)
        with os.fdopen(os.dup(descriptor), "r+b", buffering=0) as file:
            file.seek(offset)
            file.write(part)
        if len(part) < len(data):
            raise PowerFailure
        return len(part)

    return pwrite


@given(st.integers(0, 2 * SLOT.size - 1), st.integers(0, 2 * SLOT.size))
def test_it_opens_whichever_octet_was_the_last_written(first: int, second: int) -> None:
    """Twice in a row: the second rotation starts from what the first left."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "sealed"
        path.write_bytes(seal_bytes(CONTENT, OLD, CONTEXT))
        for octets in (first, second):
            patch.setattr(os, "pwrite", failing_after(octets))
            try:
                rewrap(path, ROTATING, durable=False)
            except PowerFailure:
                pass
            else:
                assert sealed_under(path) == {NEW.key_id}
            assert opens(path, NEW, OLD)
        patch.undo()
        rewrap(path, ROTATING)
        assert sealed_under(path) == {NEW.key_id}
        assert slots_of(path.read_bytes()).count(EMPTY) == 1
        assert opens(path, NEW)


def test_the_new_wrap_is_on_the_disk_before_the_old_is_cleared(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    pwrite, fsync = os.pwrite, os.fsync

    def noted(descriptor: int, data: bytes, offset: int) -> int:
        steps.append("clear" if data == EMPTY else "write")
        return pwrite(descriptor, data, offset)

    def synced(descriptor: int) -> None:
        steps.append("sync")
        fsync(descriptor)

    monkeypatch.setattr(os, "pwrite", noted)
    monkeypatch.setattr(os, "fsync", synced)
    rewrap(path, ROTATING)
    assert steps == ["write", "sync", "clear", "sync"]


ENDLESS = """
import sys
from pathlib import Path
from gateway.sealing.envelope import rewrap
from tests.gateway.test_sealing_slots import NEW, OLD, Both

paths = sorted(Path(sys.argv[1]).glob("*.sealed"))
turn = int(sys.argv[2])
print("ready", flush=True)
while True:
    turn += 1
    keys = Both(NEW, OLD) if turn % 2 else Both(OLD, NEW)
    for path in paths:
        rewrap(path, keys)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_files_that_open(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.sealed" for n in range(40)]
    for path in paths:
        path.write_bytes(seal_bytes(CONTENT, OLD, CONTEXT))
    seen = set()
    for turn in range(8):
        command = [sys.executable, "-c", ENDLESS, str(tmp_path), str(turn)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            threading.Event().wait(random.uniform(0.001, 0.08))
            child.kill()
        for path in paths:
            assert opens(path, NEW, OLD)
            seen.add(frozenset(sealed_under(path)))
    assert {frozenset({NEW.key_id}), frozenset({OLD.key_id})} <= seen
    for path in paths:
        rewrap(path, ROTATING)
        assert sealed_under(path) == {NEW.key_id}
        assert opens(path, NEW)


def test_readers_meet_no_gap_while_a_file_is_rewrapped(path: Path) -> None:
    stop, opened = threading.Event(), 0

    def turn() -> None:
        there = True
        while not stop.is_set():
            rewrap(path, Both(NEW, OLD) if there else Both(OLD, NEW), durable=False)
            there = not there

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        for _ in range(500):
            with open_sealed(path, ROTATING) as reader:
                opened += reader.read() == CONTENT
    finally:
        stop.set()
        thread.join()
    assert opened == 500


def test_two_at_once_leave_it_under_the_current_key(path: Path) -> None:
    threads = [threading.Thread(target=rewrap, args=(path, ROTATING)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sealed_under(path) == {NEW.key_id}
    assert opens(path, NEW)


def test_what_is_shredded_no_key_opens(path: Path) -> None:
    rewrap(path, ROTATING)
    content = path.read_bytes()[START:]
    shred(path)
    assert sealed_under(path) == set()
    assert path.read_bytes()[START:] == content
    with pytest.raises(InvalidSeal, match="destroyed"):
        opens(path, NEW, OLD)
    with pytest.raises(InvalidSeal, match="destroyed"):
        rewrap(path, ROTATING)
    shred(path)
