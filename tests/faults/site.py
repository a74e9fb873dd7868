"""A whole gateway under test: its settings, its processes, and how to end them."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of
from tests.endtoend.peers import free_port
from tests.endtoend.sites import plain_nodes, plain_places
from tests.faults.launcher import QUICK, VARIABLE, Controls, role_of
from tests.gateway.pki_cases import Pki, pki_of

if TYPE_CHECKING:
    from config.schema import Site
    from gateway.store.index import Index

ROOT = Path(__file__).resolve().parents[2]
BOOTSTRAP = Path(__file__).with_name("bootstrap")
PR_SET_PDEATHSIG = 1
READY_SECONDS = 120.0
MACHINE = struct.Struct("<5q")

SITE = """\
name = "faults"
data_directory = "{data}"

[receiver]
ae_title = "MIAD-GATEWAY"
plain_port = {receiver}
port = 0

[recovery]
ae_title = "MIAD-RECOVERY"
plain_port = {recovery}
port = 0

[web]
enabled = {web}
port = 0

[tls]
certificate = "{pki.gateway.certificate}"
key = "{pki.gateway.key}"
authorities = ["{pki.authority.certificate}"]
revocation_lists = ["{pki.authority.crl}"]
warn_days = 0

{nodes}
{places}
[[grants]]
name = "everything"
nodes = ["workstation"]
when = "true"

[completion]
idle_seconds = {idle}
poll_seconds = 0.2

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "{outside_host}"
port = {outside}
plain = true
retry_first_seconds = 0.3
retry_cap_seconds = 2.0
timeout_seconds = {timeout}

[[destinations]]
name = "archive"
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {archive}
plain = true
originals = true
retry_first_seconds = 0.3
retry_cap_seconds = 2.0
timeout_seconds = {timeout}

[[routing.rules]]
name = "protected"
when = 'calling_ae == "MODALITY"'
destinations = ["outside"]
protect = true

[[routing.rules]]
name = "as-they-are"
when = 'calling_ae in ["SCANNER", "WEBMODALITY"]'
destinations = ["archive"]
protect = false

[protection]
params.delta.kind = "noise"
params.search.strategy = "random"

[worker]
processes = {workers}
cpu_threads = 1
stop_seconds = 10.0
"""
"""The real engine at its quickest: the mark at one random place, noise for δ."""


@dataclass(frozen=True, kw_only=True)
class Around:
    """Where the nodes around the gateway listen, and how long it waits for them."""

    outside: int
    archive: int
    workstation: int
    outside_host: str = "127.0.0.1"
    timeout: float = 10.0
    idle: float = 0.5
    web: bool = False
    workers: int = 1
    extra: str = ""


@dataclass
class Machine:
    """The slow or failing disk and the wrong clock of `preload.c`.

    Attributes
    ----------
    disk
        The folder that is on the failing disk.
    """

    file: Path
    library: Path
    disk: Path

    @classmethod
    def build(cls, folder: Path, disk: Path) -> Self:
        """Compile the library; needs a C compiler."""
        folder.mkdir(parents=True, exist_ok=True)
        library = folder / "preload.so"
        source = Path(__file__).with_name("preload.c")
        command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)]
        subprocess.run([*command, "-ldl"], check=True, capture_output=True)
        machine = cls(folder / "machine", library, disk)
        machine.file.write_bytes(MACHINE.pack(0, 0, 0, 0, 0))
        return machine

    @property
    def environment(self) -> dict[str, str]:
        """What processes are started with."""
        return {
            "LD_PRELOAD": str(self.library),
            "FAULT_MACHINE": str(self.file),
            "FAULT_DISK": str(self.disk),
        }

    def set(
        self, *, fsync_milliseconds: int = 0, clock_seconds: int = 0, error: int = 0
    ) -> None:
        """Change the machine under the running processes; without: as it should be."""
        with self.file.open("r+b") as stream:
            stream.write(struct.pack("<3q", fsync_milliseconds, clock_seconds, error))

    @property
    def slowed(self) -> int:
        """How many waits for the disk were made longer."""
        return int(MACHINE.unpack(self.file.read_bytes())[3])

    @property
    def failed(self) -> int:
        """How often the disk refused something."""
        return int(MACHINE.unpack(self.file.read_bytes())[4])


class FaultSite:
    """``miad-gateway serve`` with armed points, in a process group of its own.

    Parameters
    ----------
    folder
        Of everything; what lies there is continued.
    around
        The nodes around it.
    machine
        Given: its disk may be slow and its clock wrong.
    data
        The data directory, where it is elsewhere (on a disk of its own).
    """

    def __init__(
        self,
        folder: Path,
        around: Around,
        *,
        machine: Machine | None = None,
        data: Path | None = None,
        python: tuple[str, ...] = (sys.executable,),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = data or folder / "data"
        self.config = folder / "site.toml"
        self.log = folder / "gateway.log"
        self.controls = Controls(folder / "points")
        self.receiver_port, self.recovery_port = free_port(), free_port()
        self.pki: Pki = pki_of(folder / "pki")
        self._machine = machine
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self.write(around)

    def write(self, around: Around) -> None:
        """Write the settings; read at the next start."""
        self.around = around
        text = SITE.format(
            data=self.data.as_posix(),
            receiver=self.receiver_port,
            recovery=self.recovery_port,
            web=str(around.web).lower(),
            pki=self.pki,
            nodes=plain_nodes(
                MODALITY=["store"], SCANNER=["store"], WORKSTATION=["recover"]
            )
            + WEB_NODE.format(pki=self.pki),
            places=plain_places(WORKSTATION=around.workstation),
            outside=around.outside,
            archive=around.archive,
            outside_host=around.outside_host,
            timeout=around.timeout,
            idle=around.idle,
            workers=around.workers,
        )
        self.config.write_text(text + around.extra)

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are started with."""
        paths = [str(ROOT), str(BOOTSTRAP)]
        own = {
            "PYTHONPATH": os.pathsep.join(paths),
            VARIABLE: str(self.controls.folder),
            QUICK: "1",
            "OMP_NUM_THREADS": "1",
        }
        machine = self._machine.environment if self._machine else {}
        return {**os.environ, **own, **machine}

    def start(self) -> None:
        """Start ``serve``; what is up is told by `ready`."""
        for name in ("ports.json", "web.json"):
            (self.data / "run" / name).unlink(missing_ok=True)
        command = [*self._python, "-m", "gateway.cli.main", "serve"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
                preexec_fn=_end_with_us,  # noqa: PLW1509 - one call of the C library
            )

    def ready(self) -> None:
        """Wait until it listens."""
        path = self.data / "run" / "ports.json"
        self.wait(path.exists, READY_SECONDS, "the receiver listens")

    def alive(self) -> bool:
        """Whether ``serve`` runs."""
        return self._process is not None and self._process.poll() is None

    def processes(self) -> dict[str, list[int]]:
        """Return the processes of the gateway by what they are."""
        assert self._process is not None
        found: dict[str, list[int]] = {"serve": [self._process.pid]}
        for pid in _of_session(self._process.pid):
            role = role_of(_command_of(pid))
            if pid != self._process.pid and role:
                found.setdefault(role, []).append(pid)
        return found

    def kill(self, role: str, share: float | None = None) -> list[int]:
        """Kill -9 what is of a kind; ``all``: the whole process group at once.

        Parameters
        ----------
        share
            Given: of several of a kind only one, at this place (0 to 1) among them.

        Returns
        -------
        list of int
            Who was killed.
        """
        assert self._process is not None
        if role in ("all", "serve"):
            pids = [pid for pids in self.processes().values() for pid in pids]
            if role == "all":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait()
            self._process = None
            for pid in pids:
                wait_gone(pid)
            return pids
        pids = sorted(self.processes().get(role, []))
        if pids and share is not None:
            pids = [pids[int(share * len(pids))]]
        for pid in pids:
            _kill(pid)
        return pids

    def kill_process(self, pid: int) -> None:
        """Kill -9 one process."""
        _kill(pid)

    def suspend_supervisor(self) -> None:
        """Stop ``serve`` in its tracks: nothing is started anew."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume_supervisor(self) -> None:
        """Let ``serve`` go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def said(self, word: str) -> int:
        """How often a word is in the log."""
        return self.log.read_text("utf-8", "replace").count(f"] {word} ")

    def stop(self) -> None:
        """Stop as an operator would; kill what does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill("all")
            raise
        self._process = None

    def end(self) -> None:
        """End at once, whatever state it is in."""
        if self._process is not None:
            self.kill("all")

    @property
    def site(self) -> Site:
        """The settings, read."""
        return load_site(self.config, environ={})

    @contextmanager
    def index(self) -> Iterator[Index]:
        """Open the index beside the running processes."""
        site = self.site
        index = open_index_of(site, open_keys_of(site))
        try:
            yield index
        finally:
            index.close()

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the gateway, points armed."""
        command = [*self._python, "-m", "gateway.cli.main", *arguments]
        return subprocess.run(
            [*command, "--config", str(self.config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=self.environment,
        )

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something that happens while ``serve`` runs."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not condition():
            assert self.alive(), f"serve ended; {what} did not come:\n{self.tail()}"
            assert time.monotonic() < deadline, (
                f"not within {seconds:.0f} s: {what}\n{self.tail()}"
            )
            pause.wait(0.1)

    def tail(self) -> str:
        """Return the end of the log."""
        if not self.log.exists():
            return ""
        return self.log.read_text("utf-8", "replace")[-4000:]


WEB_NODE = """
[[nodes]]
name = "web-modality"
ae_titles = ["WEBMODALITY"]
roles = ["store"]
certificates = ["{pki.modality.certificate}"]
"""


def _end_with_us() -> None:
    """Have the kernel kill ``serve`` when who runs the faults ends, in any way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_gone(pid: int, seconds: float = 30.0) -> None:
    """Wait until a process has ended."""
    deadline = time.monotonic() + seconds
    while _state(pid) not in ("", "Z"):
        assert time.monotonic() < deadline, f"process {pid} does not end"
        threading.Event().wait(0.02)


def _of_session(session: int) -> list[int]:
    """Return the processes that a group leader has started, itself included."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and _stat(entry)[3:4] == [str(session)]
    ]


def _stat(entry: Path) -> list[str]:
    """Fields of /proc/PID/stat behind the name: state, parent, group, session."""
    try:
        text = (entry / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()[:4]


def _state(pid: int) -> str:
    return next(iter(_stat(Path(f"/proc/{pid}"))), "")


def _command_of(pid: int) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode("utf-8", "replace").split("\0")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_gone(pid)
