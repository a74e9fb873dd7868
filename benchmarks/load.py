"""Load: many associations at once, thousands of instances, and what it leaves behind.

    python -m benchmarks.load --associations 32 --instances 10000

A real ``miad-gateway serve`` (receiver, worker, auditor), series of 100 small CT
objects from as many associations, and a storage node outside that counts what comes.
Memory, threads and open files of every process are read each second; at the end
everything must be outside once, no job left, and no process more than a twentieth
larger than when the first 1,000 instances had arrived.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import resource
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, Final, Self

import typer
from pydicom import Dataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from rich.console import Console

from benchmarks.corpus.passage import STAND_IN
from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of
from gateway.demo.nodes import LOOPBACK
from gateway.demo.site import GATEWAY, MODALITY, OUTSIDE, GatewayProcess, write_site
from gateway.dicom.contexts import storage_classes, transfer_syntaxes
from gateway.dicom.rawstore import OutboundObject, store_bytes
from gateway.dicom.requestor import Peer, Requestor, Timeouts, requested
from gateway.errors import AssociationLost

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
ROOT_UID: Final = "1.2.826.0.1.3680043.8.498.99"
SERIES: Final = 100
"""Instances of a series: a job of the queue is a series."""

SIDE: Final = 64
MOST_ASSOCIATIONS: Final = 50
"""Of one peer: one that is lost is asked for again, as modalities do."""

LOST: Final = -1
"""Counts associations that ended before their time, among the statuses."""

WARM: Final = 1000
GROWTH: Final = 0.05
SLACK_BYTES: Final = 8 << 20
"""Growth below it counts as none, whatever part of a small process it is."""

MORE: Final = """
[worker]
cpu_threads = 1
[limits]
connections_per_address = 256
connections_per_second = 1000.0
connection_burst = 1000
"""
TITLE: Final = f"""\
# Load: many associations at once, and what they leave behind

Made by `make load` (`python -m benchmarks.load`): a real `miad-gateway serve`, series
of {SERIES} CT objects of {SIDE}x{SIDE} pixels, a storage node outside that counts.
Route `originals` sends them as they came; route `protected` marks each, the search
replaced by a random mark (`benchmarks/corpus/stand_in.py`).
"""
console = Console(width=140)


@dataclass(frozen=True)
class Reading:
    """What a process took at a moment.

    Attributes
    ----------
    resident, private
        Octets of memory, and those it shares with nobody.
    """

    resident: int
    private: int
    threads: int
    files: int


@dataclass(kw_only=True)
class Load:
    """What a run saw.

    Attributes
    ----------
    accepted
        Answered with Success, when it was.
    warm, last
        Readings by process: at the thousandth instance delivered, and at the end.
    """

    associations: int
    instances: int
    route: str
    accepted: int = 0
    receive_seconds: float = 0.0
    total_seconds: float = 0.0
    delivered: int = 0
    distinct: int = 0
    again: int = 0
    states: dict[str, dict[str, int]] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)
    warm: dict[str, Reading] = field(default_factory=dict)
    middle: dict[str, Reading] = field(default_factory=dict)
    last: dict[str, Reading] = field(default_factory=dict)
    lost: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    def growth(self, name: str) -> float:
        """Part by which a process grew after the first instances."""
        return self.last[name].resident / self.warm[name].resident - 1

    @property
    def faults(self) -> list[str]:
        """What is not as promised."""
        said = []
        if self.accepted != self.instances:
            said.append(f"{self.accepted} of {self.instances} accepted")
        if self.distinct != self.instances:
            said.append(f"{self.distinct} of {self.instances} outside")
        stuck = {
            k: v for k, v in self.jobs.items() if k not in {"SUCCESS", "CANCELLED"}
        }
        if stuck:
            said.append(f"jobs left: {stuck}")
        for name in self.last:
            grown = self.last[name].resident - self.warm[name].resident
            if self.growth(name) > GROWTH and grown > SLACK_BYTES:
                said.append(f"{name} grew by {self.growth(name):.1%}")
            if self.last[name].files > self.warm[name].files + 8:
                said.append(f"{name} has {self.last[name].files} open files")
        return said


class Outside:
    """A storage node that counts what it is sent, by UID."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._entity = AE(OUTSIDE)
        self._entity.maximum_pdu_size = 0
        for sop_class in storage_classes():
            self._entity.add_supported_context(sop_class, transfer_syntaxes())

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Listen; yields the port."""
        handlers: Any = [(evt.EVT_C_STORE, self._stored)]
        server = self._entity.start_server(
            (LOOPBACK, 0), block=False, evt_handlers=handlers
        )
        assert server is not None
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()

    def _stored(self, event: evt.Event) -> int:
        with self._lock:
            self.counted[str(event.request.AffectedSOPInstanceUID)] += 1
        return 0


def object_of(number: int) -> OutboundObject:
    """Make a small CT slice: every series has a pattern, every slice its noise."""
    import numpy as np

    series = number // SERIES
    chance = np.random.default_rng(number)
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = ((x - 32) ** 2 + (y - 32) ** 2 < 400 + series % 50) * 900
    values = disc + chance.integers(0, 40, (SIDE, SIDE))
    dataset = Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = f"{ROOT_UID}.{series}.{number}.1"
    dataset.StudyDate, dataset.StudyTime = "20260102", "030405"
    dataset.Modality = "CT"
    dataset.PatientName, dataset.PatientID = "Nobody^Load", f"LOAD{series}"
    dataset.StudyInstanceUID = f"{ROOT_UID}.{series}.2"
    dataset.SeriesInstanceUID = f"{ROOT_UID}.{series}.3"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number % SERIES + 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = SIDE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "400", "900"
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    stream = BytesIO()
    target = DicomFileLike(stream)
    target.is_implicit_VR, target.is_little_endian = False, True
    write_dataset(target, dataset)
    return OutboundObject(
        sop_class_uid=CT,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=EXPLICIT,
        data=stream.getvalue(),
    )


def send_all(port: int, associations: int, instances: int) -> Counter[int]:
    """Send series from many associations at once; how often each status came."""
    waiting: queue.Queue[int] = queue.Queue()
    for series in range(-(-instances // SERIES)):
        waiting.put(series)
    statuses: Counter[int] = Counter()
    lock = threading.Lock()

    there = Peer(ae_title=GATEWAY, host=LOOPBACK, port=port, tls=None)

    def peer() -> None:
        left = _next(waiting, instances)
        for _ in range(MOST_ASSOCIATIONS):
            if not left:
                return
            entity = Requestor(MODALITY, Timeouts(answer=300.0, idle=None))
            with requested(entity, there, [(CT, EXPLICIT)]) as association:
                while left and (status := _sent(association, left[0])) is not None:
                    with lock:
                        statuses[status] += 1
                    left = left[1:] or _next(waiting, instances)
            with lock:
                statuses[LOST] += bool(left)

    threads = [threading.Thread(target=peer) for _ in range(associations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def _next(waiting: queue.Queue[int], instances: int) -> list[int]:
    """Return numbers of the instances of the next series; none where all are sent."""
    try:
        series = waiting.get(block=False)
    except queue.Empty:
        return []
    return list(range(series * SERIES, min((series + 1) * SERIES, instances)))


def _sent(association: Association, number: int) -> int | None:
    """Send one instance; its status, or None where the association is lost."""
    try:
        return store_bytes(
            association, object_of(number), message_id=number % 60000 + 1
        ).status
    except AssociationLost:
        return None


def processes_below(pid: int) -> dict[str, int]:
    """Find processes that descend from one, named by what they were started as."""
    found: dict[str, int] = {}
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                waiting += [int(child) for child in task.read_text("ascii").split()]
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")
            name = _name(words)
            if name:
                number = sum(other.split(" ")[0] == name for other in found)
                found[f"{name} {number + 1}" if number else name] = one
    return found


PROGRAMS: Final = (b"gateway.cli.main", STAND_IN.encode())


def _name(words: Sequence[bytes]) -> str:
    programs = [one for one in PROGRAMS if one in words]
    if not programs:
        return ""
    at = words.index(programs[0]) + 1
    return words[at].decode() if at < len(words) else ""


def read_process(pid: int) -> Reading | None:
    """Read what a process takes; None where it has ended."""
    try:
        pages, _, shared = map(
            int, Path(f"/proc/{pid}/statm").read_text("ascii").split()[1:4]
        )
        shared = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[2])
        size = resource.getpagesize()
        return Reading(
            resident=pages * size,
            private=(pages - shared) * size,
            threads=len(list(Path(f"/proc/{pid}/task").iterdir())),
            files=len(list(Path(f"/proc/{pid}/fd").iterdir())),
        )
    except OSError:
        return None


class Sampler:
    """Reads every process each second, in a thread of its own."""

    def __init__(self, pid: int, delivered: Callable[[], int]) -> None:
        self._pid = pid
        self._delivered = delivered
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.series: list[tuple[float, int, dict[str, Reading]]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def sample(self) -> None:
        """Read them now."""
        now = {
            name: reading
            for name, pid in processes_below(self._pid).items()
            if (reading := read_process(pid)) is not None
        }
        self.series.append((time.monotonic(), self._delivered(), now))

    def at(self, delivered: int) -> dict[str, Reading]:
        """Return readings when so many had been delivered."""
        return next(
            (now for _, count, now in self.series if count >= delivered),
            self.series[-1][2],
        )

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.sample()


def run_load(
    folder: Path, associations: int, instances: int, route: str, stall: float
) -> tuple[Load, Sampler]:
    """Do it.

    Parameters
    ----------
    folder
        Of the site.
    associations, instances
        How many.
    route
        ``originals``: as they came; ``protected``: each with one random mark.
    stall
        Seconds without any delivery after which it is given up.
    """
    load = Load(associations=associations, instances=instances, route=route)
    outside = Outside()
    with outside.listening() as port:
        config = write_site(folder, None, outside_port=port, workstation_port=1)
        text = config.read_text("utf-8") + MORE
        text = text.replace("idle_seconds = 2.0", "idle_seconds = 10.0")
        if route == "originals":
            text = text.replace("protect = true", "protect = false").replace(
                "retry_first_seconds", "originals = true\nretry_first_seconds"
            )
        config.write_text(text, "utf-8")
        module = STAND_IN if route == "protected" else "gateway.cli.main"
        gateway = GatewayProcess(config, folder / "gateway.log", module)
        with gateway:
            ports = gateway.wait_for_ports(folder / "data")
            assert gateway._process is not None
            counted = outside.counted
            with Sampler(gateway._process.pid, lambda: len(counted)) as sampler:
                start = time.monotonic()
                statuses = send_all(ports.receiver, associations, instances)
                load.receive_seconds = time.monotonic() - start
                load.accepted = statuses[0]
                load.lost = statuses.pop(LOST, 0)
                load.statuses = {f"{k:04X}": v for k, v in statuses.items()}
                _wait(load, outside, stall)
                load.total_seconds = time.monotonic() - start
                # Everything is outside: what is still taken is what it costs to run.
                threading.Event().wait(5)
                sampler.sample()
            load.states = _states(config)
            load.warm = sampler.at(warm_at(instances))
            load.middle = sampler.at(instances // 2)
            load.last = sampler.series[-1][2]
            load.warm = {
                name: load.warm.get(name, load.last[name]) for name in load.last
            }
        load.jobs = _jobs(folder / "data" / "jobs.sqlite")
    load.delivered = sum(outside.counted.values())
    load.distinct = len(outside.counted)
    load.again = load.delivered - load.distinct
    return load, sampler


def warm_at(instances: int) -> int:
    """How many must be outside before memory is first compared."""
    return min(WARM, instances // 4)


def _wait(load: Load, outside: Outside, stall: float) -> None:
    """Wait until all is outside, or nothing has come for too long."""
    moved, before = time.monotonic(), -1
    pause = threading.Event()
    while len(outside.counted) < load.accepted:
        now = sum(outside.counted.values())
        if now != before:
            moved, before = time.monotonic(), now
        elif time.monotonic() - moved > stall:
            return
        pause.wait(0.5)


def _states(config: Path) -> dict[str, dict[str, int]]:
    site = load_site(config)
    index = open_index_of(site, open_keys_of(site))
    try:
        return {name: dict(found) for name, found in index.counts().items()}
    finally:
        index.close()


def _jobs(path: Path) -> dict[str, int]:
    """Workflows of the queue by their state."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as found:
        rows = found.execute(
            "SELECT status, COUNT(*) FROM workflow_status GROUP BY status"
        ).fetchall()
    return {str(status): int(count) for status, count in rows}


def page_of(load: Load) -> str:
    """Lay out the result as a page."""
    rate = load.accepted / max(load.receive_seconds, 1e-9)
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    warm = f"{warm_at(load.instances):,}"
    what = {
        "answered with Success": f"{load.accepted:,}",
        "received in": f"{load.receive_seconds:.0f} s ({rate:.0f}/s)",
        "all outside after": f"{load.total_seconds:.0f} s",
        "distinct objects outside": f"{load.distinct:,}",
        "associations that ended before their time": f"{load.lost}",
        "sent again (at least once)": f"{load.again}",
        "jobs by state at the end": _words(load.jobs),
        **{f"index, {name}": _words(found) for name, found in load.states.items()},
    }
    lines = [
        TITLE,
        f"{machine}, Python {platform.python_version()}; it did other work as well.\n",
        f"{load.associations} associations at once, {load.instances:,} instances.",
        f"Route `{load.route}`.\n",
        "| what | figure |",
        "|---|---|",
        *(f"| {name} | {figure} |" for name, figure in what.items()),
        "",
        f"| process | RSS at {warm} | half | end | growth | threads | files |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, last in load.last.items():
        first = load.warm[name]
        middle = load.middle.get(name, last)
        lines.append(
            f"| {name} | {first.resident / 2**20:.1f} MiB | "
            f"{middle.resident / 2**20:.1f} MiB | {last.resident / 2**20:.1f} MiB | "
            f"{load.growth(name):+.1%} | {first.threads} to {last.threads} | "
            f"{first.files} to {last.files} |"
        )
    said = load.faults or ["As promised: everything outside, no job left, memory flat."]
    return "\n".join([*lines, "", *(f"- {one}" for one in said), ""])


def _words(found: dict[str, int]) -> str:
    return (
        ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))
        or "none"
    )


def main(
    associations: Annotated[int, typer.Option()] = 32,
    instances: Annotated[int, typer.Option()] = 10_000,
    route: Annotated[str, typer.Option(help="originals or protected")] = "originals",
    stall: Annotated[float, typer.Option(help="Seconds")] = 180.0,
    page: Annotated[Path | None, typer.Option()] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to leave.")] = None,
) -> None:
    """Load a gateway and say what it took; exit 1 where it is not as promised."""
    folder = keep or Path(tempfile.mkdtemp(prefix="miad-load-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        load, sampler = run_load(folder, associations, instances, route, stall)
        text = page_of(load)
        console.print(text, markup=False)
        if page is not None:
            page.write_text(text, "utf-8")
        if keep is not None:
            series = [
                (
                    round(at - sampler.series[0][0], 1),
                    count,
                    {name: one.resident for name, one in now.items()},
                )
                for at, count, now in sampler.series
            ]
            table = {"load": asdict(load), "series": series}
            (folder / "load.json").write_text(json.dumps(table), "utf-8")
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    raise typer.Exit(int(bool(load.faults)))


if __name__ == "__main__":
    typer.run(main)
