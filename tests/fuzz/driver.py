"""One process that fuzzes one target: guided by coverage (atheris), or at random.

Every execution is counted in a file that the parent maps too, so that nothing is
lost where a codec takes the process with it. What an entry point raises is kept as
a finding, once per place; the campaign goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import random
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

SLOWEST_SECONDS: Final = 10.0
"""Of processor time for one input: then it hangs."""

LARGEST_JUMP_BYTES: Final = 256 << 20
"""By which one input may raise the process's largest memory."""

COUNTERS: Final = struct.Struct("<QQQQQ")
"""Executions, of seeds, octets resident after warming up and now, nanoseconds."""

WARM: Final = 0.1
"""Part of the executions after which memory is first read."""


class TooSlow(Exception):
    """An input takes longer than any should."""


class TooLarge(Exception):
    """An input takes more memory than any should."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does.

    Attributes
    ----------
    target
        Name.
    executions, seconds
        The end of it; whichever comes first.
    seed
        Of the chances.
    folder
        Gets ``counters``, ``corpus`` and ``findings``.
    guided
        Whether coverage guides it.
    """

    target: str
    executions: int
    seconds: float
    seed: int
    folder: Path
    guided: bool


class Counters:
    """Numbers in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(COUNTERS.size))
        with path.open("r+b") as stream:
            self._map = mmap.mmap(stream.fileno(), COUNTERS.size)

    def read(self) -> tuple[int, int, int, int, int]:
        """Return all of them."""
        return COUNTERS.unpack(self._map[:])

    def write(self, *numbers: int) -> None:
        """Replace all of them."""
        self._map[:] = COUNTERS.pack(*numbers)


class Findings:
    """What was found, one file per place and the input beside it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def keep(self, data: bytes, error: BaseException) -> None:
        """Keep an input, unless one of the same place is there that is no longer."""
        place = place_of(error)
        name = hashlib.sha256(place.encode()).hexdigest()[:12]
        path = self._folder / f"{name}.bin"
        if path.exists() and path.stat().st_size <= len(data):
            return
        path.write_bytes(data)
        text = "".join(traceback.format_exception(error)[-12:])
        kind = {TooSlow: "hang", TooLarge: "memory"}.get(type(error), "exception")
        table = {"kind": kind, "place": place, "error": repr(error)[:300], "text": text}
        path.with_suffix(".json").write_text(json.dumps(table, indent=1), "utf-8")


def place_of(error: BaseException) -> str:
    """Name an error by its type and where this project was last on the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/gateway/" in f.filename or "/config/" in f.filename]
    last = (own or list(frames))[-1] if frames else None
    where = f"{Path(last.filename).name}:{last.name}" if last else "nowhere"
    return f"{type(error).__name__} in {where}"


def resident_bytes_of(pid: int | str) -> int:
    """Memory of a process now; 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


class Watched:
    """An entry point whose every call is counted, timed and weighed."""

    def __init__(self, job: Job, enter: Callable[[bytes], None], seeds: int) -> None:
        self._enter = enter
        self._job = job
        self._counters = Counters(job.folder / "counters")
        self._findings = Findings(job.folder / "findings")
        self._before, *_ = self._counters.read()
        self._seeds = seeds
        self._done = 0
        self._warm = 0
        self._start = time.monotonic()
        self._largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._current = job.folder / "current"

    def __call__(self, data: bytes) -> None:
        """Enter with one input; never raises."""
        self._done += 1
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, SLOWEST_SECONDS)
            try:
                self._enter(data)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self._weigh()
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the Rust codec's panic is none
            self._findings.keep(data, error)
        if self._done % 64 == 0 or self._done < 64 or self.over():
            self.note()

    def note(self) -> None:
        """Write the counters."""
        now = resident_bytes_of("self")
        if self._done >= WARM * self._job.executions or self._past(WARM):
            self._warm = self._warm or now
        elapsed = int((time.monotonic() - self._start) * 1e9)
        self._counters.write(
            self._before + self._done, self._seeds, self._warm or now, now, elapsed
        )

    def over(self) -> bool:
        """Whether the job is done."""
        return self._done >= self._job.executions or self._past(1.0)

    def _past(self, part: float) -> bool:
        return time.monotonic() - self._start > part * self._job.seconds

    def _weigh(self) -> None:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        jump, self._largest = largest - self._largest, largest
        if jump << 10 > LARGEST_JUMP_BYTES:
            raise TooLarge(f"one input took {jump >> 10} MiB")


def run(job: Job) -> None:
    """Fuzz one target until the job is done."""
    job.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGVTALRM, _too_slow)
    if job.guided:
        _guided(job)
    else:
        _at_random(job)


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow(f"over {SLOWEST_SECONDS:g} s of processor time")


def _target(job: Job) -> Any:
    import structlog

    from tests.fuzz.targets import TARGETS

    # What peers do wrong is logged, a line each; faults are exceptions here.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    warnings.simplefilter("ignore")
    return TARGETS[job.target]


def _at_random(job: Job) -> None:
    from tests.fuzz.mutators import random_inputs

    target = _target(job)
    seeds = target.seeds()
    chance = random.Random(job.seed)
    make = random_inputs(target.mutator, seeds, target.longest, chance)
    watched = Watched(job, target.build(), 0)
    last = job.folder / "last"
    with last.open("w+b") as stream:
        stream.truncate(target.longest + 4)
        noted = mmap.mmap(stream.fileno(), target.longest + 4)
    while not watched.over():
        data = make()
        # Where a codec takes the process with it, this is what was under work.
        noted[: 4 + len(data)] = struct.pack("<L", len(data)) + data
        watched(data)
    noted[:4] = bytes(4)
    watched.note()


GUIDED: Final = ["gateway", "config"]
"""Packages whose branches guide."""


def _guided(job: Job) -> None:
    import atheris  # type: ignore[import-not-found, unused-ignore]

    with atheris.instrument_imports(include=GUIDED, enable_loader_override=False):
        target = _target(job)
    from tests.fuzz.mutators import mutator

    seeds = target.seeds()
    corpus = job.folder / "corpus"
    corpus.mkdir(exist_ok=True)
    put_seeds(corpus, seeds)
    known = len(list(corpus.iterdir()))
    watched = Watched(job, target.build(), known)

    def leaf(data: bytes, longest: int, _chance: random.Random) -> bytes:
        return bytes(atheris.Mutate(data, longest)) if data else b"\0"

    change = mutator(target.mutator, leaf)

    def changed(data: bytes, longest: int, seed: int) -> bytes:
        return change(data, longest, random.Random(seed))

    arguments = [
        sys.argv[0],
        f"-runs={job.executions}",
        f"-max_total_time={max(1, int(job.seconds))}",
        f"-seed={job.seed & 0x7FFFFFFF}",
        f"-max_len={target.longest}",
        f"-artifact_prefix={job.folder}/artifact-",
        "-timeout=120",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, watched, custom_mutator=changed)
    atheris.Fuzz()


def put_seeds(corpus: Path, seeds: Sequence[bytes]) -> None:
    """Write valid inputs beside what a corpus already has."""
    for seed in seeds:
        path = corpus / hashlib.sha1(seed, usedforsecurity=False).hexdigest()
        if not path.exists():
            path.write_bytes(seed)


def merge(name: str, folder: Path, longest: int) -> None:
    """Copy the inputs of a corpus that cover it, small ones first, to ``merged``."""
    import atheris  # type: ignore[import-not-found, unused-ignore]

    job = Job(
        target=name, executions=1, seconds=1e9, seed=1, folder=folder, guided=True
    )
    with atheris.instrument_imports(include=GUIDED, enable_loader_override=False):
        target = _target(job)
    enter = target.build()

    def one(data: bytes) -> None:
        # What was found is kept elsewhere.
        with contextlib.suppress(BaseException):
            enter(data)

    places = [str(folder / "merged"), str(folder / "corpus")]
    arguments = [sys.argv[0], "-merge=1", f"-max_len={longest}", *places]
    atheris.Setup(arguments, one)
    atheris.Fuzz()
