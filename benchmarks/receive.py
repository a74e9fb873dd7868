"""How fast C-STORE is acknowledged: this gateway, Orthanc, DCMTK and the disk.

    python benchmarks/receive.py [--repeat 1] [--images 200] [--only gateway,orthanc]

One run sends the same images with DCMTK's storescu (one process per association,
``TCP_NODELAY=1`` at both ends) to each receiver in turn: real CT slices of 0.5 MB
under new UIDs over 1, 4 and 32 associations, and objects of 30 MB over one. All
run at once and are sent to in turn. Who is measured:

- this gateway, ``miad-gateway receiver`` with default settings: sealed, fsynced
  and indexed before Success;
- Orthanc with its default durable settings (SQLite, ``SyncStorageArea``), from a
  JSON file without plugins;
- DCMTK ``storescp --fork``: a file is written, and nothing waits for the disk;
- writing with one fsync each: the limit "Success means durable" sets for one writer.

Ratios inside one run are what counts; the table names the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_file

ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
TICKS = os.sysconf("SC_CLK_TCK")
SITE = """\
data_directory = "{data}"
[receiver]
plain_port = {port}
[recovery]
plain_port = 0
[[nodes]]
name = "storescu"
ae_titles = ["STORESCU"]
roles = ["store"]
plain = true
addresses = ["127.0.0.1/32"]
[limits]
connection_burst = 10000
connections_per_second = 10000.0
"""
UID = b"1.2.826.0.1.3680043.8.498." + b"1" * 37
"""Of the templates; as long as a UID may be, so that any other fits in its place."""
LARGE_ROWS, LARGE_COLUMNS = 3840, 4096  # of 16 bits: 30 MiB


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent at once."""

    name: str
    large: bool
    count: int
    associations: int


@dataclass
class Result:
    """What sending one load took, each time it was sent."""

    rates: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running receiver."""

    process: subprocess.Popen[bytes]
    called: str
    port: int

    def pids(self) -> list[int]:
        """Return its process and all below it."""
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in task.read_text().split()]
        return found

    def cpu_seconds(self) -> float:
        """Return what it has used, with children that have ended and were reaped."""
        ticks = 0
        for pid in self.pids():
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except OSError:  # over by now, and counted with its parent
                continue
            fields = stat.rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / TICKS

    def rss_mib(self) -> float:
        """Return its memory, pages shared by its processes counted once."""
        pattern = re.compile(r"^Pss:\s+(\d+) kB", re.M)
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # a process of one association, over by now
                continue
            found = pattern.search(rollup)
            total += int(found[1]) if found else 0
        return total / 1024


class Images:
    """Files under new UIDs, made of two templates."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._templates = {False: template(large=False), True: template(large=True)}

    def new(self, load: Load) -> list[Path]:
        """Write the files of one sending."""
        paths = []
        for number in range(load.count):
            uid = f"2.25.{secrets.randbits(120):036d}".encode()[:63].ljust(63, b"7")
            data = self._templates[load.large].replace(UID, uid)
            paths.append(self._directory / f"{number:05d}.dcm")
            paths[-1].write_bytes(data)
        os.sync()  # or the disk writes them while a receiver waits for its own
        return paths


def template(*, large: bool) -> bytes:
    """Encode a real CT slice under the UID that is replaced."""
    source = get_testdata_file("693_UNCR.dcm", read=False, download=False)
    ds = dcmread(str(source))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID.decode()
    if large:
        size = LARGE_ROWS * LARGE_COLUMNS * 2
        ds.Rows, ds.Columns = LARGE_ROWS, LARGE_COLUMNS
        ds.PixelData = (ds.PixelData * (size // len(ds.PixelData) + 1))[:size]
    with tempfile.NamedTemporaryFile() as file:
        ds.save_as(file.name)
        return Path(file.name).read_bytes()


def program(name: str) -> str:
    """Find a program; pynetdicom puts others of DCMTK's names beside Python."""
    own = Path(sys.executable).parent.resolve()
    others = [p for p in os.get_exec_path() if Path(p).resolve() != own]
    found = shutil.which(name, path=os.pathsep.join(others))
    if found is None:
        raise SystemExit(f"{name} is not installed: apt-get install dcmtk orthanc")
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(command: Sequence[str], called: str, port: int) -> Iterator[Server]:
    """Run a storage SCP until the block ends."""
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not answers(called, port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} did not start")
            threading.Event().wait(0.1)
        yield Server(process=process, called=called, port=port)
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(called: str, port: int) -> bool:
    """Whether a C-ECHO is answered there."""
    echo = [program("echoscu"), "-to", "5", "-aet", "STORESCU", "-aec", called]
    command = [*echo, "127.0.0.1", str(port)]
    return not subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, check=False
    ).returncode


def send(paths: list[Path], server: Server, associations: int) -> float:
    """Send with storescu over some associations at once; return the seconds."""
    shares = [paths[start::associations] for start in range(associations)]
    base = [program("storescu"), "-aec", server.called, "127.0.0.1", str(server.port)]
    start = time.monotonic()
    senders = [
        subprocess.Popen(
            [*base, *map(str, share)],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for share in shares
        if share
    ]
    codes = [sender.wait() for sender in senders]
    if any(codes):
        raise SystemExit(f"storescu to {server.called} ended with {codes}")
    return time.monotonic() - start


@contextmanager
def gateway(directory: Path) -> Iterator[Server]:
    """Run this gateway's receiver."""
    port = free_port()
    config = directory / "site.toml"
    config.write_text(SITE.format(data=(directory / "data").as_posix(), port=port))
    command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
    with serving([*command, "--config", str(config)], "MIAD-GATEWAY", port) as server:
        yield server


@contextmanager
def orthanc(directory: Path) -> Iterator[Server]:
    """Run Orthanc; everything not named here is its default."""
    port = free_port()
    config = directory / "orthanc.json"
    settings = {
        "StorageDirectory": str(directory / "orthanc"),
        "IndexDirectory": str(directory / "orthanc"),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomPort": port,
        "DicomAet": "ORTHANC",
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
    }
    config.write_text(json.dumps(settings))
    with serving([program("Orthanc"), str(config)], "ORTHANC", port) as server:
        yield server


@contextmanager
def storescp(directory: Path) -> Iterator[Server]:
    """Run DCMTK's storescp, one process per association, no fsync."""
    port = free_port()
    out = directory / "storescp"
    out.mkdir()
    command = [program("storescp"), "--fork", "-od", str(out), "+B", str(port)]
    with serving(command, "ANY-SCP", port) as server:
        yield server


RECEIVERS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[Server]]]] = {
    "gateway": ("miad-gateway", gateway),
    "orthanc": ("Orthanc", orthanc),
    "storescp": ("DCMTK storescp --fork, no fsync", storescp),
}
DISK = "write and fsync, no network"


def disk(paths: list[Path], directory: Path) -> float:
    """Seconds to write each image to a file of its own and fsync it."""
    images = [path.read_bytes() for path in paths]
    start = time.monotonic()
    for number, data in enumerate(images):
        with (directory / f"disk-{number}").open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    taken = time.monotonic() - start
    for number in range(len(images)):
        (directory / f"disk-{number}").unlink()
    return taken


class Run:
    """Measures every receiver under every load."""

    def __init__(self, directory: Path, loads: Sequence[Load]) -> None:
        self._directory = directory
        self._loads = loads
        self._images = Images(directory)
        self.results: dict[tuple[str, str], Result] = {}
        self.rss: dict[str, float] = {}

    def measure(self, servers: Mapping[str, Server]) -> None:
        """Send every load once to each, one after the other.

        All run meanwhile: what is compared was measured within seconds. Another
        comes first each time.
        """
        for turn, load in enumerate(self._loads):
            names = [*servers]
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                server, paths = servers[name], self._images.new(load)
                before = server.cpu_seconds()
                seconds = send(paths, server, load.associations)
                self._note(name, load, seconds, server.cpu_seconds() - before)
            seconds = disk(self._images.new(load), self._directory)
            self._note(DISK, load, seconds, 0.0)
        for name, server in servers.items():
            self.rss[name] = max(self.rss.get(name, 0.0), server.rss_mib())

    def _note(self, name: str, load: Load, seconds: float, cpu: float) -> None:
        result = self.results.setdefault((name, load.name), Result())
        result.rates.append(load.count / seconds)
        result.cpu_seconds.append(cpu)


def table(run: Run, loads: Sequence[Load], names: Sequence[str]) -> Iterator[str]:
    """Yield lines of markdown: the median of the rates, and their range."""
    yield "| receiver | " + " | ".join(load.name for load in loads) + " | MiB | CPU s |"
    yield "|---|" + "---:|" * (len(loads) + 2)
    for name in names:
        cells = [spread(run.results[name, load.name].rates) for load in loads]
        cpu = run.results[name, loads[0].name].cpu_seconds
        rss = f"{run.rss[name]:.0f}" if name in run.rss else ""
        spent = f"{statistics.median(cpu):.2f}" if name in run.rss else ""
        yield f"| {name} | " + " | ".join(cells) + f" | {rss} | {spent} |"
    ours = names[0]
    for name in names[1:]:
        cells = [
            ratios(run.results[ours, load.name].rates, run.results[name, load.name])
            for load in loads
        ]
        yield f"| {ours} / {name} | " + " | ".join(cells) + " | | |"


def spread(rates: Sequence[float]) -> str:
    """Return the median, and the range where there is one."""
    middle = f"{statistics.median(rates):.{0 if rates[0] > 20 else 1}f}"
    if len(rates) == 1:
        return middle
    return f"{middle} ({min(rates):.0f}-{max(rates):.0f})"


def ratios(ours: Sequence[float], theirs: Result) -> str:
    """Return how our rate stands to theirs, in each round."""
    each = [a / b for a, b in zip(ours, theirs.rates, strict=True)]
    middle = f"{statistics.median(each):.2f}"
    return middle if len(each) == 1 else f"{middle} ({min(each):.2f}-{max(each):.2f})"


def main() -> None:
    """Print a table of rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--large", type=int, default=6, help="objects of 30 MB")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default=",".join(RECEIVERS))
    arguments = parser.parse_args()
    loads = [
        Load(name=f"CT x{n}", large=False, count=arguments.images, associations=n)
        for n in (1, 4, 32)
    ]
    loads.append(
        Load(name="30 MB x1", large=True, count=arguments.large, associations=1)
    )
    chosen = {RECEIVERS[n][0]: RECEIVERS[n][1] for n in arguments.only.split(",")}
    with tempfile.TemporaryDirectory() as temporary:
        run = Run(Path(temporary), loads)
        names = [*chosen]
        for repetition in range(arguments.repeat):
            directory = Path(temporary) / str(repetition)
            with ExitStack() as stack:
                servers = {}
                for name in names:
                    (own := directory / str(names.index(name))).mkdir(parents=True)
                    servers[name] = stack.enter_context(chosen[name](own))
                run.measure(servers)
            shutil.rmtree(directory)
            names.append(names.pop(0))
    print(
        f"{arguments.images} CT of 0.5 MB, {arguments.large} objects of 30 MB; objects "
        f"per second, median of {arguments.repeat} (range); memory (PSS) at the end; "
        f"CPU seconds per {arguments.images} CT of one association. {os.cpu_count()} "
        f"cores {platform.machine()}, Python {platform.python_version()}.\n"
    )
    print("\n".join(table(run, loads, [*chosen, DISK])))


if __name__ == "__main__":
    main()
