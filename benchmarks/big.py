"""Memory for multi-frame objects of any length: received, protected, sent, recovered.

    python -m benchmarks.big [--frames 4096] [--steps 64 512] [--forms native jpeg-ls]

Real CT slices (512 x 512, 16 bit), each frame moved and shifted in value so that no
two are equal, make an enhanced multi-frame object; 4,096 frames are 2.1 GB. It is
sent to a real receiving process, protected in a process that has loaded torch and
the engine's models, sent to DCMTK's storescp, and given back by C-MOVE of the
receiving process to another storescp. What arrives has to be the original.

Printed is the peak of the resident memory of each process in each step. The marks are
made by a stand-in (a real mark and key at a random place, no search): the engine
takes seconds for a frame, and as much memory for the last as for the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.big_files import FORMS, digest_of, write_object
from benchmarks.receive import free_port, program, serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB: Final = 1 << 20
LIMIT: Final = 1536 * MIB
SITE: Final = """\
data_directory = "{data}"
[receiver]
plain_port = {receiver}
[recovery]
plain_port = {recovery}
ae_title = "RECOVERY"
[protection]
max_frames = 100000
[[nodes]]
name = "modality"
ae_titles = ["MODALITY"]
roles = ["store"]
plain = true
addresses = ["127.0.0.1/32"]
[[nodes]]
name = "workstation"
ae_titles = ["WORKSTATION"]
roles = ["recover"]
plain = true
addresses = ["127.0.0.1/32"]
[[grants]]
name = "everything"
nodes = ["workstation"]
when = "true"
[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = {outside}
plain = true
timeout_seconds = 3600.0
[[recovery.destinations]]
ae_title = "WORKSTATION"
host = "127.0.0.1"
port = {workstation}
plain = true
"""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the processes of a run listen."""

    receiver: int
    recovery: int
    outside: int
    workstation: int


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Peaks of resident memory in octets, and seconds, of one object.

    ``steps`` maps the process and step to its peak.
    """

    form: str
    frames: int
    size: int
    steps: dict[str, int]
    seconds: dict[str, float]


def peak_of(pid: int) -> int:
    """Peak of a process's resident memory since `forget_peak`, in octets."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def forget_peak(pid: int) -> None:
    """Have the peak of a process start anew from what it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def tree_of(root: int) -> list[int]:
    """Return a process and all below it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


class Receiver:
    """The receiving process of a site, and the peaks of the largest one of it."""

    def __init__(self, config: Path, port: int) -> None:
        command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
        self._process = subprocess.Popen([*command, "--config", str(config)])
        deadline = time.monotonic() + 120
        while not listening(port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the receiver did not start")
            threading.Event().wait(0.1)

    def peak(self) -> int:
        """Return the peak since it was last asked for."""
        pids = tree_of(self._process.pid)
        found = max(map(peak_of, pids))
        for pid in pids:
            forget_peak(pid)
        return found

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)


def listening(port: int) -> bool:
    """Whether someone accepts connections there: this site answers no stranger."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_one(form: str, frames: int, directory: Path) -> Peaks:
    """Pass one object through everything; raise unless it comes back exactly."""
    ports = Ports(
        receiver=free_port(),
        recovery=free_port(),
        outside=free_port(),
        workstation=free_port(),
    )
    file = directory / "original.dcm"
    uid, size = write_object(file, form, frames)
    config = directory / "site.toml"
    config.write_text(SITE.format(data=(directory / "data").as_posix(), **vars(ports)))
    for name in ("outside", "workstation"):
        (directory / name).mkdir()
    steps: dict[str, int] = {}
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        scps = {"outside": ports.outside, "workstation": ports.workstation}
        for name, port in scps.items():
            command = [program("storescp"), "-od", str(directory / name), "+B"]
            command += ["-aet", name.upper(), "+xa", str(port)]
            stack.enter_context(serving(command, name.upper(), port))
        receiver = Receiver(config, ports.receiver)
        stack.callback(receiver.stop)
        steps["receiver, idle"] = receiver.peak()
        with timed(seconds, "receive"):
            _send(file, ports.receiver)
        steps["receiver, receiving"] = receiver.peak()
        file.unlink()
        told = _work(config, uid)
        steps |= told["steps"]
        seconds |= told["seconds"]
        receiver.peak()
        with timed(seconds, "recover"):
            _move(uid, ports.recovery)
        steps["receiver, recovering"] = receiver.peak()
    (back,) = (directory / "workstation").iterdir()
    if digest_of(back) != told["sha256"]:
        raise SystemExit(f"{form}, {frames} frames: another object came back")
    (out,) = (directory / "outside").iterdir()
    if digest_of(out) == told["sha256"]:
        raise SystemExit("the original left")
    return Peaks(form=form, frames=frames, size=size, steps=steps, seconds=seconds)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note how long a block takes."""
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start


def _send(file: Path, port: int) -> None:
    command = [sys.executable, "-m", "benchmarks.big_steps", "send", str(file)]
    subprocess.run([*command, str(port)], check=True)


def _work(config: Path, uid: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.big_steps", "work", str(config), uid]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _move(uid: str, port: int) -> None:
    command = [program("movescu"), "-aec", "RECOVERY", "-aet", "WORKSTATION"]
    command += ["-aem", "WORKSTATION", "-S", "-k", "QueryRetrieveLevel=IMAGE"]
    study, series, instance = f"{uid}.1", f"{uid}.2", uid
    command += ["-k", f"StudyInstanceUID={study}", "-k", f"SeriesInstanceUID={series}"]
    command += ["-k", f"SOPInstanceUID={instance}", "127.0.0.1", str(port)]
    subprocess.run(command, check=True)


def table(results: Sequence[Peaks]) -> str:
    """Return the peaks as a table."""
    names = list(results[0].steps)
    lines = ["| object | size | " + " | ".join(names) + " |"]
    lines.append("|---|---|" + "---|" * len(names))
    for one in results:
        peaks = " | ".join(f"{one.steps[name] / MIB:.0f}" for name in names)
        lines.append(
            f"| {one.form}, {one.frames} frames | {one.size / 1e6:.0f} MB | {peaks} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table; fail where a peak is above 1.5 GiB."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=4096)
    parser.add_argument("--steps", type=int, nargs="*", default=[64, 512])
    parser.add_argument("--forms", nargs="*", default=["native"], choices=FORMS)
    arguments = parser.parse_args()
    results = []
    for form in arguments.forms:
        for frames in sorted({*arguments.steps, arguments.frames}):
            root = Path(tempfile.mkdtemp(prefix="big-"))
            try:
                results.append(run_one(form, frames, root))
            finally:
                shutil.rmtree(root)
            print(table(results[-1:]), file=sys.stderr, flush=True)
            print(results[-1].seconds, file=sys.stderr, flush=True)
    print("Peak of resident memory in MiB; the limit is 1536.\n")
    print(table(results))
    print(
        f"\n{os.cpu_count()} cores {platform.machine()}, "
        f"Python {platform.python_version()}"
    )
    if max(peak for one in results for peak in one.steps.values()) > LIMIT:
        raise SystemExit("a peak is above 1.5 GiB")


if __name__ == "__main__":
    main()
