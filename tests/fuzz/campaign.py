"""Many processes that fuzz, one target each: what they did, found and cost."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.fuzz.driver import COUNTERS, Job

ROOT: Final = Path(__file__).parents[2]
KEPT: Final = Path(__file__).parent / "corpus"
COVERING: Final = "covering.zip"
MOST_CRASHES: Final = 20
"""Of one target: then it is given up, and said."""

GRACE_SECONDS: Final = 180.0
COVERAGE: Final = re.compile(r"\bcov: (\d+)")


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one target did.

    Attributes
    ----------
    target, kind
        Name, and what its inputs are.
    executions
        Mutated inputs that were entered.
    seconds
        That it ran.
    coverage, new_coverage
        Edges that were reached, and how many of them not by the corpus it began
        with; 0 where nothing guided it.
    exceptions, hangs, crashes, memory
        Findings by kind, each place once; crashes end the process.
    growth_bytes
        Resident memory at the end over that after a tenth of the run.
    """

    target: str
    kind: str
    executions: int
    seconds: float
    coverage: int
    new_coverage: int
    exceptions: int
    hangs: int
    crashes: int
    memory: int
    growth_bytes: int
    resident_bytes: int

    @property
    def findings(self) -> int:
        """All of them."""
        return self.exceptions + self.hangs + self.crashes + self.memory


def guided_here() -> bool:
    """Whether atheris is installed."""
    return find_spec("atheris") is not None


def run_target(
    job: Job, kind: str, told: Callable[[str], None], prior: int = 0
) -> Share:
    """Fuzz one target in processes of its own until its share is done."""
    job.folder.mkdir(parents=True, exist_ok=True)
    start, crashes, round_number = time.monotonic(), 0, 0
    first_coverage = last_coverage = 0
    while True:
        done, *_ = _counters(job)
        left = job.executions - (done - prior)
        seconds = job.seconds - (time.monotonic() - start)
        if left <= 0 or seconds <= 1 or crashes >= MOST_CRASHES:
            break
        log = job.folder / f"log-{round_number}.txt"
        code = _one_process(job, left, seconds, job.seed + round_number, log)
        found = COVERAGE.findall(log.read_text("utf-8", "replace"))
        if found:
            first_coverage = first_coverage or int(found[0])
            last_coverage = max(last_coverage, *map(int, found))
        round_number += 1
        if code != 0:
            crashes += _keep_crash(job, log, code)
            told(f"{job.target}: the process ended with {code}")
    done, _, warm, now, _ = _counters(job)
    kinds = [one["kind"] for one in findings_of(job.folder)]
    return Share(
        target=job.target,
        kind=kind,
        executions=done - prior,
        seconds=time.monotonic() - start,
        coverage=last_coverage,
        new_coverage=last_coverage - first_coverage,
        exceptions=kinds.count("exception"),
        hangs=kinds.count("hang"),
        crashes=kinds.count("crash"),
        memory=kinds.count("memory"),
        growth_bytes=now - warm,
        resident_bytes=now,
    )


def findings_of(folder: Path) -> list[dict[str, str]]:
    """Return what was found in a target's folder."""
    paths = sorted((folder / "findings").glob("*.json"))
    return [json.loads(path.read_text("utf-8")) | {"file": path.stem} for path in paths]


def _counters(job: Job) -> tuple[int, int, int, int, int]:
    path = job.folder / "counters"
    if not path.exists():
        return 0, 0, 0, 0, 0
    return COUNTERS.unpack(path.read_bytes())


def _one_process(job: Job, left: int, seconds: float, seed: int, log: Path) -> int:
    """Run one process; its exit status, negative for a signal."""
    unpack_covering(job)
    command = [
        *(sys.executable, "-m", "tests.fuzz", "one", job.target),
        *("--executions", str(left), "--seconds", f"{seconds:.0f}"),
        *("--seed", str(seed), "--folder", str(job.folder)),
        *(() if job.guided else ("--at-random",)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["RUST_BACKTRACE"] = "0"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
        )
        try:
            return process.wait(seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return -9
        finally:
            process.kill()
            process.wait()


def unpack_covering(job: Job) -> None:
    """Begin with the corpus that is kept."""
    packed = KEPT / job.target / COVERING
    corpus = job.folder / "corpus"
    if job.guided and packed.exists() and not corpus.exists():
        corpus.mkdir(parents=True)
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(corpus)


def _keep_crash(job: Job, log: Path, code: int) -> int:
    """Keep the input under which a process ended; 1 where there is one."""
    artifacts = sorted(job.folder.glob("artifact-*"))
    data = artifacts[0].read_bytes() if artifacts else _last(job)
    for each in artifacts:
        each.unlink()
    if data is None:
        text = log.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{job.target} ended with {code} and left no input:\n{text}")
    folder = job.folder / "findings"
    folder.mkdir(exist_ok=True)
    lines = log.read_text("utf-8", "replace").splitlines()[-60:]
    place = next(
        (x.strip() for x in lines if "ERROR: libFuzzer" in x), f"signal {-code}"
    )
    place = re.sub(r"==\d+==\s*", "", place)
    kind = "hang" if "timeout" in place else "crash"
    name = f"{kind}-{abs(hash(data)) % 10**12:012d}"
    (folder / f"{name}.bin").write_bytes(data)
    table = {"kind": kind, "place": place, "error": str(code), "text": "\n".join(lines)}
    (folder / f"{name}.json").write_text(json.dumps(table, indent=1), "utf-8")
    return 1


def _last(job: Job) -> bytes | None:
    path = job.folder / "last"
    if not path.exists():
        return None
    noted = path.read_bytes()
    (length,) = struct.unpack_from("<L", noted)
    return noted[4 : 4 + length] if length else None


def run_all(
    jobs: Sequence[tuple[Job, str]], at_once: int, told: Callable[[str], None]
) -> Iterator[Share]:
    """Fuzz all targets, some at a time, and yield what each did."""
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        yield from pool.map(lambda each: run_target(*each, told), jobs)


def write_shares(shares: Sequence[Share], path: Path) -> None:
    """Write what was done as JSON."""
    path.write_text(json.dumps([asdict(s) for s in shares], indent=1) + "\n", "utf-8")


def read_shares(path: Path) -> list[Share]:
    """Read what an earlier campaign did."""
    return [Share(**one) for one in json.loads(path.read_text("utf-8"))]


def keep_covering(folder: Path, target: str, longest: int, most: int) -> int:
    """Keep the smallest inputs of a corpus that cover it (libFuzzer's merge).

    Returns
    -------
    int
        How many there are.
    """
    merged = folder / "merged"
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir()
    command = [
        *(sys.executable, "-m", "tests.fuzz", "merge", target),
        *("--folder", str(folder), "--longest", str(longest)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RUST_BACKTRACE": "0"}
    with (folder / "merge.txt").open("wb") as log:
        subprocess.run(
            command, env=environment, cwd=ROOT, stdout=log, stderr=log, check=True
        )
    paths = sorted(merged.iterdir(), key=lambda path: path.stat().st_size)[:most]
    (KEPT / target).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(
        KEPT / target / COVERING, "w", zipfile.ZIP_DEFLATED, compresslevel=9
    ) as archive:
        for number, path in enumerate(sorted(paths)):
            # The same octets give the same archive, whenever it is made.
            entry = zipfile.ZipInfo(f"{number:04d}", (2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return len(paths)
