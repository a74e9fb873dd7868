"""Recorded associations of DCMTK, changed, against a receiver that really runs.

The recordings are made by `record` (storescu, echoscu, findscu, movescu, getscu
through a proxy) and kept in the corpus. Changes: bits, cuts, doubled and swapped
PDUs, lengths that lie, pieces of other recordings, a slow peer, a half-closed one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from tests.fuzz.campaign import KEPT, ROOT
from tests.fuzz.driver import resident_bytes_of
from tests.fuzz.mutators import Pdus, mutator, plain, spliced
from tests.gateway.raw_peer import ACCEPT, echo, pdu, raw_peer, request

RECORDINGS: Final = KEPT / "wire"
CHECKED_EVERY: Final = 500
"""Associations between two looks at the process."""

ANSWER_SECONDS: Final = 5.0
WARM: Final = 0.1
WARM_ROUNDS: Final = 2
ROUNDS: Final = 5
"""At least: a short run is looked at more often."""
GROWTH: Final = 0.05
SLACK_BYTES: Final = 8 << 20
"""Memory may grow by a twentieth or by so much after a tenth of the run: the
allocator's arenas of the connections that are open at the moment."""

FAULTS: Final = ("Traceback", "request failed", "Exception in", "unhandled")
"""What the log of a receiver never has, whatever a peer sends."""

SITE: Final = """\
data_directory = "data"
[receiver]
ae_title = "MIAD-GATEWAY"
plain_port = 0
[recovery]
ae_title = "MIAD-RECOVERY"
plain_port = 0
[limits]
connections_per_second = 1000000.0
connection_burst = 1000000
request_seconds = 3.0
pdu_seconds = 3.0
[[nodes]]
name = "peer"
ae_titles = ["MODALITY", "STORESCU", "ECHOSCU"]
roles = ["store"]
plain = true
addresses = ["127.0.0.1/32"]
[[nodes]]
name = "station"
ae_titles = ["WORKSTATION", "FINDSCU", "MOVESCU", "GETSCU"]
roles = ["recover"]
plain = true
addresses = ["127.0.0.1/32"]
move_destinations = ["STATION"]
[[grants]]
name = "station"
nodes = ["station"]
when = "true"
move_destinations = ["STATION"]
[[recovery.destinations]]
ae_title = "STATION"
host = "127.0.0.1"
port = 1
plain = true
"""


@dataclass(kw_only=True)
class Outcome:
    """What a run of associations found.

    Attributes
    ----------
    associations, pdus
        That were sent, changed.
    accepted
        Associations that were accepted all the same.
    stored
        Objects the index has at the end.
    memory_bytes
        Of the receiver, at every look.
    threads, files
        Of the receiver after warming up and at the end.
    faults
        Lines of its log that should not be there, and whatever else went wrong.
    """

    associations: int = 0
    pdus: int = 0
    accepted: int = 0
    stored: int = 0
    seconds: float = 0.0
    memory_bytes: list[int] = field(default_factory=list)
    threads: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)
    faults: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Part by which memory grew after the receiver was warm."""
        return self.memory_bytes[-1] / self.warm_bytes - 1

    @property
    def warm_bytes(self) -> int:
        """What memory was after a tenth of the run, and two rounds at least."""
        number = max(WARM_ROUNDS, int(len(self.memory_bytes) * WARM))
        return self.memory_bytes[min(number, len(self.memory_bytes) - 1)]


class Receiver:
    """``miad-gateway receiver`` of a site of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "receiver.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "site.toml").write_text(SITE, "utf-8")
        command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self._folder / "site.toml")],
                stdout=log,
                stderr=log,
                env=environment,
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pids(self) -> list[int]:
        """Of the process and of those it began, whatever they are called."""
        assert self._process is not None
        return family(self._process.pid)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def ports(self, seconds: float = 120.0) -> tuple[int, int]:
        """Wait until it listens; ports to store and to retrieve."""
        path = self._folder / "data" / "run" / "ports.json"
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not path.exists():
            if not self.alive or time.monotonic() > deadline:
                raise RuntimeError(
                    f"no receiver:\n{self.log.read_text('utf-8')[-3000:]}"
                )
            pause.wait(0.1)
        found = json.loads(path.read_text("utf-8"))
        return found["plain_receiver"], found["plain_recovery"]


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text("ascii").split()]
    return found


def recordings() -> dict[str, bytes]:
    """Return what DCMTK's tools sent, by name."""
    return {path.stem: path.read_bytes() for path in sorted(RECORDINGS.glob("*.bin"))}


def changed(kept: Sequence[bytes], chance: random.Random) -> list[bytes]:
    """A recording with one to four changes; two of three keep their request."""
    change = mutator("pdus", plain)
    data = chance.choice(kept)
    first, *others = Pdus(plain).split(data)
    kept_request = chance.random() < 0.67
    data = b"".join(others) if kept_request else data
    if chance.random() < 0.1:
        data = spliced(data, chance.choice(kept), chance)
    for _ in range(chance.randint(1, 4)):
        data = change(data, len(data) + 4096, chance)
    pdus = Pdus(plain).split(data)
    return [first, *pdus] if kept_request else pdus


def play(port: int, pdus: Sequence[bytes], chance: random.Random) -> bool:
    """Send a changed association; whether the gateway accepted it.

    What is whole is answered, and the answer waited for; else the peer goes on, or
    leaves. One PDU of fifty comes in two pieces; half of the peers close their half
    when all is sent and read to the end.
    """
    accepted = False
    with raw_peer(port) as peer, contextlib.suppress(OSError):
        for number, one in enumerate(pdus):
            if chance.random() < 0.02 and len(one) > 1:
                peer.send(one[:1])
                threading.Event().wait(0.02)
                peer.send(one[1:])
            else:
                peer.send(one)
            if number == 0:
                peer.connection.settimeout(ANSWER_SECONDS if _whole(one) else 0.02)
                with contextlib.suppress(TimeoutError):
                    accepted = peer.connection.recv(1 << 16)[:1] == bytes([ACCEPT])
        if chance.random() < 0.5:
            peer.connection.shutdown(socket.SHUT_WR)
            peer.connection.settimeout(ANSWER_SECONDS)
            with contextlib.suppress(TimeoutError):
                while peer.connection.recv(1 << 16):
                    pass
    return accepted


def _whole(encoded: bytes) -> bool:
    """Whether a PDU is as long as it says."""
    return len(encoded) > 6 and len(encoded) == 6 + int.from_bytes(encoded[2:6], "big")


def answers_echo(port: int) -> bool:
    """Whether C-ECHO is answered now."""
    with contextlib.suppress(OSError, AssertionError), raw_peer(port) as peer:
        peer.send(request())
        if peer.receive()[0] != ACCEPT:
            return False
        peer.send(echo())
        kind, _ = peer.receive()
        peer.send(pdu(5, bytes(4)))
        return kind == 4
    return False


def fuzz_wire(
    folder: Path,
    associations: int,
    seconds: float,
    seed: int,
    peers: int,
    told: Callable[[str], None],
) -> Outcome:
    """Play changed associations against a running receiver and look at it.

    Parameters
    ----------
    folder
        Of the site; what the receiver stored stays in it.
    associations, seconds
        The end of it; whichever comes first.
    seed
        Of the chances; each association has its own.
    peers
        Connections at once.
    told
        Told at every look.
    """
    outcome = Outcome()
    kept = recordings()
    if not kept:
        raise RuntimeError(
            f"no recordings in {RECORDINGS}: python -m tests.fuzz record"
        )
    start = time.monotonic()
    with Receiver(folder) as receiver:
        ports = receiver.ports()
        groups = {
            ports[0]: [v for k, v in kept.items() if k.startswith(("store", "echo"))],
            ports[1]: [v for k, v in kept.items() if not k.startswith("store")],
        }
        _look(receiver, ports[0], outcome)
        every = max(1, min(CHECKED_EVERY, associations // ROUNDS))
        while outcome.associations < associations:
            count = min(every, associations - outcome.associations)
            _round(groups, seed + outcome.associations, count, peers, outcome)
            _look(receiver, ports[0], outcome)
            told(
                f"{outcome.associations} associations, "
                f"{outcome.memory_bytes[-1] >> 20} MiB, {outcome.files[1]} files, "
                f"{outcome.threads[1]} threads"
            )
            if time.monotonic() - start > seconds or not receiver.alive:
                break
    outcome.seconds = time.monotonic() - start
    _judge(folder, receiver.log, outcome)
    (folder / "wire.json").write_text(json.dumps(asdict(outcome), indent=1), "utf-8")
    return outcome


def _round(
    groups: dict[int, list[bytes]], seed: int, count: int, peers: int, outcome: Outcome
) -> None:
    lock = threading.Lock()
    numbers: Iterator[int] = iter(range(seed, seed + count))

    def peer() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            chance = random.Random(number)
            port = chance.choice((*groups, next(iter(groups))))
            pdus = changed(groups[port], chance)
            accepted = play(port, pdus, chance)
            with lock:
                outcome.associations += 1
                outcome.pdus += len(pdus)
                outcome.accepted += accepted

    threads = [threading.Thread(target=peer) for _ in range(peers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _look(receiver: Receiver, port: int, outcome: Outcome) -> None:
    """Wait until the changed associations are gone, and measure."""
    for _ in range(5):
        if answers_echo(port):
            break
    else:
        outcome.faults.append(f"no C-ECHO after {outcome.associations} associations")
    pause = threading.Event()
    files = threads = 0
    for _ in range(60):  # those that wait for the rest of a PDU have 3 s
        threads = sum(_count(pid, "task") for pid in receiver.pids)
        files = sum(_count(pid, "fd") for pid in receiver.pids)
        if outcome.threads[0] and threads <= outcome.threads[0]:
            break
        if not outcome.threads[0]:
            break
        pause.wait(0.1)
    outcome.memory_bytes.append(sum(map(resident_bytes_of, receiver.pids)))
    if len(outcome.memory_bytes) <= 2:
        outcome.threads, outcome.files = (threads, threads), (files, files)
    outcome.threads = (outcome.threads[0], threads)
    outcome.files = (outcome.files[0], files)


def _count(pid: int, what: str) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/{what}").iterdir()))
    except OSError:
        return 0


def _judge(folder: Path, log: Path, outcome: Outcome) -> None:
    """Compare store and index, read the log."""
    text = log.read_text("utf-8", "replace")
    for line in text.splitlines():
        if any(fault in line for fault in FAULTS):
            outcome.faults.append(f"log: {line[:200]}")
    rows, files = stored_of(folder)
    outcome.stored = len(rows)
    outcome.faults += [f"a file without a row: {name}" for name in sorted(files - rows)]
    outcome.faults += [f"a row without a file: {name}" for name in sorted(rows - files)]
    grown = outcome.memory_bytes[-1] - outcome.warm_bytes
    if outcome.growth > GROWTH and grown > SLACK_BYTES:
        outcome.faults.append(f"memory grew by {grown >> 20} MiB")
    if outcome.threads[1] > outcome.threads[0] + 2:
        outcome.faults.append(f"threads: {outcome.threads}")
    if outcome.files[1] > outcome.files[0] + 4:
        outcome.faults.append(f"open files: {outcome.files}")


def stored_of(folder: Path) -> tuple[set[str], set[str]]:
    """Names of stored files by the index, conflicts too, and on disk."""
    from sqlalchemy import select

    from config.load import load_site
    from gateway.app.openers import open_index_of, open_keys_of
    from gateway.store.schema import conflicts, instances

    site = load_site(folder / "site.toml")
    index = open_index_of(site, open_keys_of(site))
    rows: set[str] = set()
    with index.database.read() as connection:
        for table in (instances, conflicts):
            rows |= {str(path) for path in connection.scalars(select(table.c.path))}
    index.close()
    store = folder / "data" / "store"
    found = (path.relative_to(store).as_posix() for path in store.rglob("*"))
    files = {name for name in found if (store / name).is_file()}
    return rows, {name for name in files if not name.endswith((".lock", ".json"))}


@contextmanager
def recording_proxy(port: int, path: Path) -> Iterator[int]:
    """Listen before a port and write down what the first client sends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def relay() -> None:
            client, _ = server.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as upstream:
                sent = bytearray()
                back = threading.Thread(target=_pump, args=(upstream, client, None))
                back.start()
                _pump(client, upstream, sent)
                back.join(20)
                path.write_bytes(bytes(sent))
            done.set()

        thread = threading.Thread(target=relay, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        done.wait(20)


def _pump(source: socket.socket, target: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            if kept is not None:
                kept += piece
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


def record(folder: Path) -> list[str]:
    """Record DCMTK's tools against a receiver; what they send names nobody."""
    from tests.fuzz import seeds

    folder.mkdir(parents=True, exist_ok=True)
    RECORDINGS.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, made in (
        ("explicit", seeds.native()[0]),
        ("implicit", seeds.native()[7]),
        ("big-endian", seeds.native()[8]),
        ("deflated", seeds.native()[9]),
        ("jpeg", seeds.jpeg()[0]),
        ("jpeg-2000", seeds.jpeg_2000()[0]),
        ("rle", seeds.rle()[0]),
    ):
        path = folder / f"{name}.dcm"
        path.write_bytes(_as_capture(made))
        files[name] = path
    proposals = {
        "explicit": [],
        "implicit": ["-xi"],
        "big-endian": ["-xb"],
        "deflated": ["-xd"],
        "jpeg": ["-xy"],
        "jpeg-2000": ["-xv"],
        "rle": ["-xr"],
    }
    with Receiver(folder / "site") as receiver:
        store, recover = receiver.ports()
        tools: list[tuple[str, int, list[str]]] = [("echo", store, ["echoscu"])]
        for name, options in proposals.items():
            command = ["storescu", *options, "-aet", "STORESCU"]
            tools.append((f"store-{name}", store, [*command, "@", str(files[name])]))
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID"]
        keys += ["-k", "PatientName=N*", "-k", "ModalitiesInStudy"]
        one = ["-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.3"]
        tools += [
            ("find", recover, ["findscu", "-S", "-aet", "FINDSCU", *keys]),
            (
                "move",
                recover,
                ["movescu", "-S", "-aet", "MOVESCU", "-aem", "STATION", *one],
            ),
            ("get", recover, ["getscu", "-S", "-aet", "GETSCU", *one]),
        ]
        for name, port, command in tools:
            _record(folder, name, port, command, recover == port)
    return sorted(recordings())


def _record(
    folder: Path, name: str, port: int, command: list[str], recovery: bool
) -> None:
    called = "MIAD-RECOVERY" if recovery else "MIAD-GATEWAY"
    with recording_proxy(port, RECORDINGS / f"{name}.bin") as proxy:
        address = ["-aec", called, "127.0.0.1", str(proxy)]
        if command[0] == "echoscu":
            address = ["-aet", "ECHOSCU", *address]
        options = [x for x in command[1:] if x != "@" and not x.endswith(".dcm")]
        ends = [x for x in command if x.endswith(".dcm")]
        subprocess.run(
            [command[0], *options, *address, *ends],
            cwd=folder,
            check=False,
            capture_output=True,
            timeout=60,
        )


def _as_capture(made: bytes) -> bytes:
    """A Part 10 file of a seed, whose meta information names its class."""
    from gateway.store.part10 import FileMeta, encode_head
    from tests.fuzz import seeds

    head = encode_head(
        FileMeta(
            sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
            sop_instance_uid="1.2.826.0.1.3680043.8.498.1",
            transfer_syntax_uid=seeds.syntax_of(made),
        )
    )
    return head + made[1:]
