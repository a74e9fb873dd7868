"""Rotation of the master key over many records, killed again and again.

    python -m benchmarks.rotation [--records 100000] [--kills 3] [--seed 1]

Seals records through the Vault, starts ``miad-gateway keys rotate`` and ends it
with kill -9 at seeded moments; another process seals further records all the
while. Then the rotation is let through, and every record is opened with the new
key alone. Exit code 1 unless all open and none is under the old key.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from config.schema import Vault as VaultSettings
from gateway.sealing.census import read_seal, take_census
from gateway.sealing.master import LocalMasterKey
from gateway.sealing.ring import open_ring
from gateway.vault.record import KeyRecord, RecordPart, WholeCustody
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.sealing.master import Keys

SITE: Final = 'data_directory = "data"\n'
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
OWN: Final = 10**9
"""From this number on records are those sealed during the rotation."""
PATIENCE: Final = 1800.0
PROCESSES: Final = 4
"""Sealing and opening; syncs of several are one write of the journal."""


@dataclass
class Result:
    """What came out; times in seconds."""

    records: int
    seed: int
    sealing: float = 0.0
    killed_with_done: list[int] = field(default_factory=list)
    """Files under the new key when the rotation was killed."""
    attempts: list[float] = field(default_factory=list)
    """How long each start of the rotation ran."""
    sealed_meanwhile: int = 0
    opened: int = 0
    under_old: int = 0
    under_new: int = 0
    wrong: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing was lost and nothing is under the old key."""
        everything = self.records + self.sealed_meanwhile
        return (self.opened, self.under_old, self.wrong) == (everything, 0, 0)


def uid_of(number: int) -> str:
    """SOP Instance UID of the protected object of a record."""
    return f"2.25.{number + 1}"


def record_of(number: int) -> KeyRecord:
    """Make a small record that differs from every other one."""
    received = f"original {number}".encode() * 8
    return KeyRecord(
        parts=(RecordPart(uid=uid_of(number)),),
        original_uid=f"2.25.{number + 10**12}",
        sop_class_uid=SECONDARY_CAPTURE,
        transfer_syntax_uid=EXPLICIT_LITTLE,
        kind="data-set",
        original_sha256=hashlib.sha256(received).hexdigest(),
        original_size=len(received),
        marks=(),
        custody=WholeCustody(received=received),
    )


def keys_of(folder: Path) -> Keys:
    """Open the master keys of the site in a folder."""
    return open_ring(VaultSettings(), folder / "data")


def seal(folder: Path, first: int, last: int) -> None:
    """Seal records of a range into the site's vault."""
    vault = Vault(folder / "data" / "vault", keys_of(folder))
    for number in range(first, last):
        vault.put(record_of(number))


def opens(vault: Vault, number: int) -> bool:
    """Whether a record opens and holds what was put into it."""
    return vault.get(uid_of(number)) == record_of(number)


def count_good(folder: Path, key: bytes, first: int, last: int) -> int:
    """Count the records of a range that open with a key alone."""
    vault = Vault(folder / "data" / "vault", LocalMasterKey(key))
    return sum(opens(vault, number) for number in range(first, last))


def run(folder: Path, records: int, kills: int, seed: int) -> Result:
    """Seal, rotate, kill, rotate to the end, and open everything.

    Parameters
    ----------
    folder
        Empty; the site is made in it.
    records, kills, seed
        How many; how often; for the moments of the kills.
    """
    result = Result(records=records, seed=seed)
    config = folder / "site.toml"
    config.write_text(SITE)
    old = keys_of(folder).current().key_id
    result.sealing = _timed(lambda: _in_parallel(seal, folder, records))
    moments = random.Random(seed)  # noqa: S311 - when to kill, not a secret
    with _sealing_meanwhile(folder) as sealed:
        for number in range(kills):
            share = (number + moments.uniform(0.2, 0.8)) / kills
            _rotate_and_kill(config, old, share, result, moments)
            _check_sample(folder, records, moments)
        started = time.monotonic()
        _finish(config)
        result.attempts.append(time.monotonic() - started)
    result.sealed_meanwhile = sealed[0]
    return _measure(folder, old, result)


def _measure(folder: Path, old: str, result: Result) -> Result:
    census = take_census(folder / "data")
    new = (folder / "data" / "secrets" / "master.key").read_bytes()
    result.under_old = census.under.pop(old, 0)
    result.under_new = census.under.pop(LocalMasterKey(new).key_id, 0)
    result.wrong = sum(census.under.values()) + census.old + len(census.damaged)
    good = _in_parallel(count_good, folder, result.records, new)
    result.opened = sum(good) + count_good(
        folder, new, OWN, OWN + result.sealed_meanwhile
    )
    return result


def _in_parallel(work, folder: Path, records: int, *more) -> list:  # noqa: ANN001, ANN002
    edges = [records * n // PROCESSES for n in range(PROCESSES + 1)]
    with ProcessPoolExecutor(PROCESSES) as pool:
        jobs = [
            pool.submit(work, folder, *more, *edges[n : n + 2])
            for n in range(PROCESSES)
        ]
        return [job.result() for job in jobs]


@contextmanager
def _sealing_meanwhile(folder: Path) -> Iterator[list[int]]:
    """Seal new records from another process, as the worker does."""
    sealed = [0]
    writer = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rotation", "--write-into", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield sealed
    finally:
        out, _ = writer.communicate("stop\n", timeout=60)
    sealed[0] = int(out)


def _write_until_told(folder: Path) -> None:
    """Be that process: seal until a line comes on standard input."""
    told = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), told.set())).start()
    vault = Vault(folder / "data" / "vault", keys_of(folder))
    number = OWN
    while not told.wait(0.01):
        vault.put(record_of(number))
        number += 1
    print(number - OWN)


def _rotate(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gateway.cli.main", "keys", "rotate", "--json"]
    return subprocess.Popen(
        [*command, "--config", str(config)], stdout=subprocess.DEVNULL
    )


def _rotate_and_kill(
    config: Path, old: str, share: float, result: Result, moments: random.Random
) -> None:
    """Start the rotation; kill it when about this share of a sample is done."""
    folder = config.parent
    numbers = moments.sample(range(result.records), min(100, result.records))
    paths = [_path_of(folder, number) for number in numbers]
    started = time.monotonic()
    process = _rotate(config)
    try:
        while time.monotonic() < started + PATIENCE and process.poll() is None:
            if sum(_is_moved(path, old) for path in paths) >= share * len(paths):
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise SystemExit("the rotation ended before it could be killed")
    result.attempts.append(time.monotonic() - started)
    under = take_census(folder / "data").under
    result.killed_with_done.append(sum(n for key, n in under.items() if key != old))


def _path_of(folder: Path, number: int) -> Path:
    shelf = hashlib.sha256(uid_of(number).encode()).hexdigest()[:2]
    return folder / "data" / "vault" / shelf / f"{uid_of(number)}.miad"


def _is_moved(path: Path, old: str) -> bool:
    seal = read_seal(path)
    return seal is not None and seal.key_ids != {old}


def _check_sample(folder: Path, records: int, moments: random.Random) -> None:
    """Open records right after a kill, with the keys that are at hand."""
    vault = Vault(folder / "data" / "vault", keys_of(folder))
    for number in moments.sample(range(records), min(200, records)):
        if not opens(vault, number):
            raise SystemExit(f"record {number} is not what was sealed")


def _finish(config: Path) -> None:
    process = _rotate(config)
    if process.wait(PATIENCE):
        raise SystemExit("the rotation did not come to its end")


def _timed(work) -> float:  # noqa: ANN001
    started = time.monotonic()
    work()
    return time.monotonic() - started


def page(result: Result) -> str:
    """Say what came out, for people."""
    rotating = sum(result.attempts)
    everything = result.records + result.sealed_meanwhile
    kills = zip(result.attempts, result.killed_with_done, strict=False)
    return "\n".join(
        [
            f"{result.records} records sealed in {result.sealing:.0f} s",
            *(f"kill -9 after {s:.1f} s: {n} under the new key" for s, n in kills),
            f"last start, to the end: {result.attempts[-1]:.1f} s",
            f"all starts of the rotation: {rotating:.1f} s",
            f"sealed meanwhile by another process: {result.sealed_meanwhile}",
            f"opened with the new key alone: {result.opened} of {everything}",
            f"under the new key: {result.under_new}",
            f"under the old key: {result.under_old}",
            f"under others, or damaged: {result.wrong}",
            f"{os.cpu_count()} cores {platform.machine()}, seed {result.seed}",
        ]
    )


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where to work; default: /tmp")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write-into", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.write_into is not None:
        _write_until_told(chosen.write_into)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        result = run(Path(folder), chosen.records, chosen.kills, chosen.seed)
    print(json.dumps(asdict(result)) if chosen.json else page(result))
    raise SystemExit(0 if result.good else 1)


if __name__ == "__main__":
    main()
