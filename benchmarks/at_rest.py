"""What sealing costs: the store and the index, sealed against clear.

    python -m benchmarks.at_rest [--objects 200] [--rows 2000] [--out FILE]

One run does the same work twice on the same disk, alternately: files in clear
with the same fsyncs against the sealed store, and the index in plain SQLite
against SQLCipher. The ratios inside a run are what counts; of several rounds
the median is taken, and the machine is printed beside them.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import platform
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import create_engine
from sqlcipher3 import dbapi2

from gateway.sealing.master import LocalMasterKey
from gateway.store import database as databases
from gateway.store.files import FileStore
from gateway.store.find import ORIGINALS, FindKeys, Level
from gateway.store.index import Index
from gateway.store.part10 import FileMeta, encode_head
from gateway.store.rows import NewInstance

OBJECT_BYTES: Final = 524_288
ROUNDS: Final = 5
SECRET: Final = bytes(32)
PIECE_BYTES: Final = 131_072
"""As a data set comes in: one PDV after the other."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Median rates of one kind of work, clear and sealed."""

    what: str
    unit: str
    clear: float
    sealed: float


def main() -> None:
    """Measure, print, and write a page where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="miad-at-rest-", dir=Path()) as folder:
        rows = [
            *files(Path(folder), options.objects),
            *indexes(Path(folder), options.rows),
        ]
    page = "\n".join(_page(rows, options.objects, options.rows))
    print(page)
    if options.out is not None:
        options.out.write_text(page + "\n")


# The store


def files(root: Path, count: int) -> list[Row]:
    """Write and read objects of the size of a CT slice."""
    data = os.urandom(OBJECT_BYTES)
    megabytes = count * OBJECT_BYTES / 1e6
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], None]) -> None:
        gc.collect()
        start = time.perf_counter()
        work()
        seconds.setdefault(name, []).append(time.perf_counter() - start)

    for number in range(ROUNDS):
        clear = ClearStore(root / f"clear-{number}")
        sealed = FileStore(root / f"sealed-{number}", LocalMasterKey(SECRET), SECRET)
        timed("write clear", lambda: clear.write_all(data, count))  # noqa: B023
        timed("write sealed", lambda: _write_all(sealed, data, count))  # noqa: B023
        timed("read clear", clear.read_all)
        timed("read sealed", lambda: _read_all(sealed))  # noqa: B023
    rate = {name: megabytes / statistics.median(each) for name, each in seconds.items()}
    return [
        Row(
            what=f"store, {work}",
            unit="MB/s",
            clear=rate[f"{work} clear"],
            sealed=rate[f"{work} sealed"],
        )
        for work in ("write", "read")
    ]


class ClearStore:
    """The same writing in clear: piece by piece, digest, two fsyncs, a rename."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir()

    def write_all(self, data: bytes, count: int) -> None:
        """Write objects that differ in their first octets."""
        for number in range(count):
            draft = self._root / "draft.part"
            digest = hashlib.sha256()
            with draft.open("xb", buffering=0) as stream:
                stream.write(encode_head(_meta(number)))
                for piece in _pieces(number, data):
                    stream.write(piece)
                    digest.update(piece)
                os.fsync(stream.fileno())
            draft.replace(self._root / f"{digest.hexdigest()}.dcm")
            descriptor = os.open(self._root, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def read_all(self) -> None:
        """Read every object once."""
        for path in sorted(self._root.iterdir()):
            with path.open("rb") as stream:
                while stream.read(1 << 20):
                    pass


def _write_all(store: FileStore, data: bytes, count: int) -> None:
    for number in range(count):
        with store.begin_original(_meta(number)) as writer:
            for piece in _pieces(number, data):
                writer.write(piece)
            writer.commit()


def _read_all(store: FileStore) -> None:
    for path in sorted(store.root.rglob("*.sealed")):
        with store.open(path.relative_to(store.root).as_posix()) as stream:
            while stream.read(1 << 20):
                pass


def _meta(number: int) -> FileMeta:
    return FileMeta(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.3.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )


def _pieces(number: int, data: bytes) -> list[bytes | memoryview]:
    view = memoryview(data)
    rest = [view[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    return [number.to_bytes(8, "little"), *rest]


# The index


def indexes(root: Path, count: int) -> list[Row]:
    """Add rows one by one, each durable, then ask for them."""
    rates: dict[str, list[float]] = {}
    for number in range(ROUNDS):
        for kind, index in (
            ("clear", _clear_index(root / f"clear-{number}.sqlite")),
            ("sealed", Index(f"sqlite:///{root}/sealed-{number}.sqlite", SECRET)),
        ):
            for what, rate in _ask(index, count).items():
                rates.setdefault(f"{what} {kind}", []).append(rate)
            index.close()
    middle = {name: statistics.median(each) for name, each in rates.items()}
    return [
        Row(
            what=f"index, {what}",
            unit="per s",
            clear=middle[f"{what} clear"],
            sealed=middle[f"{what} sealed"],
        )
        for what in ("rows added", "one object", "studies by name", "syntaxes")
    ]


def _clear_index(path: Path) -> Index:
    """As before there was a key: the same tables and settings in plain SQLite."""
    sealed = databases._engine
    databases._engine = lambda url, _key: create_engine(url, pool_size=8)
    try:
        return Index(f"sqlite:///{path}")
    finally:
        databases._engine = sealed


def _ask(index: Index, count: int) -> dict[str, float]:
    def rate(work: Callable[[], object], times: int) -> float:
        gc.collect()
        start = time.perf_counter()
        for _ in range(times):
            work()
        return times / (time.perf_counter() - start)

    numbers = iter(range(count))
    added = rate(lambda: index.add_instance(_row(next(numbers))), count)
    names = FindKeys(values={"PatientName": ["Muster*7"]})
    return {
        "rows added": added,
        "one object": rate(lambda: index.instance("1.2.3.77"), 500),
        "studies by name": rate(lambda: index.find_originals(names, Level.STUDY), 20),
        "syntaxes": rate(lambda: index.syntaxes_held(ORIGINALS), 20),
    }


def _row(number: int) -> NewInstance:
    return NewInstance(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.3.{number}",
        study_instance_uid=f"1.5.{number // 20}",
        series_instance_uid=f"1.6.{number // 10}",
        patient_id=f"P{number // 20}",
        patient_name=f"Muster^Anna {number // 20}",
        sha256=f"{number:064x}",
        size_bytes=OBJECT_BYTES,
        path=f"originals/00/{number:032x}-{number:032x}.sealed",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae="MODALITY",
        called_ae="MIAD-GATEWAY",
        peer_address="127.0.0.1",
        received_at="2026-01-01T00:00:00.000000+00:00",
    )


# The page


def _page(rows: Sequence[Row], objects: int, count: int) -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return [
        "# What sealing at rest costs",
        "",
        "Made by `python -m benchmarks.at_rest`"
        + (f" at {commit}" if commit else "")
        + f", {ROUNDS} rounds, medians: {objects} objects of {OBJECT_BYTES // 1024} KiB"
        f" and {count} rows, each durable before the next.",
        "",
        (
            f"Machine: {platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, SQLite {sqlite3.sqlite_version} against "
            f"SQLCipher on SQLite {dbapi2.sqlite_version}."
        ),
        "",
        "| work | clear | sealed | unit | sealed / clear |",
        "|---|---:|---:|---|---:|",
        *(
            f"| {row.what} | {row.clear:,.0f} | {row.sealed:,.0f} | {row.unit} "
            f"| {row.sealed / row.clear:.2f} |"
            for row in rows
        ),
    ]


if __name__ == "__main__":
    main()
