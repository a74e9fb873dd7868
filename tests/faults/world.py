"""A gateway under load with all nodes around it, and the checks of it at the end."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
from pydicom import dcmread

from gateway.demo.nodes import StorageNode, move_study
from tests.endtoend.peers import dcmtk
from tests.faults import invariants
from tests.faults.backing import Database, cluster_of, database_of, objects_of
from tests.faults.invariants import Report
from tests.faults.ledger import Journal, Ledger
from tests.faults.load import Sender, WebSender, storescu, taken
from tests.faults.nodes import KeepingNode
from tests.faults.objects import Factory, Item, Route
from tests.faults.site import Around, FaultSite, Machine
from tests.gateway.pki_cases import client_context

if TYPE_CHECKING:
    from gateway.store.index import Index
    from tests.gateway.buckets import Front
    from tests.gateway.postgres import Cluster

MOST_WAITING: dict[Route, int] = {"protected": 48, "originals": 240}
"""Acknowledged objects that have not arrived: with more, no new ones are made."""
SENDING = ("worker", "all", "serve")
"""Whose kill may make an object arrive twice: with them ends who sends."""
RETRIES = 4
DRAIN_SECONDS = 600.0
TIDY_SECONDS = 120.0
"""For a worker to start, and to look through a small store."""


class World:
    """A site, its senders and the nodes it sends to; continued from its folder.

    Parameters
    ----------
    folder
        Of everything.
    seed
        Of what is sent.
    web
        Whether the web server runs and is sent to.
    machine, data
        As of `FaultSite`.
    extra
        Further settings of the site.
    database, objects
        Whether it keeps its tables on a PostgreSQL server of its own, and its files
        in an object store.
    workers
        How many there are.
    """

    def __init__(
        self,
        folder: Path,
        seed: str,
        *,
        web: bool = False,
        machine: Machine | None = None,
        data: Path | None = None,
        extra: str = "",
        timeout: float = 10.0,
        outside_host: str = "127.0.0.1",
        database: Database = "sqlite",
        objects: bool = False,
        workers: int = 1,
    ) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.jsonl")
        self.ledger = Ledger(self.journal)
        self.runs = sum(1 for _ in self.journal.events("begin"))
        self._seed = f"{seed}/{self.runs}"
        self.factory = Factory(folder / "objects", self._seed)
        self.outside = KeepingNode("OUTSIDE", folder / "outside")
        self.archive = KeepingNode("ARCHIVE", folder / "archive")
        self.workstation = KeepingNode("WORKSTATION", folder / "workstation")
        self._web = web
        self._options = {
            "web": web,
            "timeout": timeout,
            "outside_host": outside_host,
            "workers": workers,
        }
        self._extra, self._database, self._objects = extra, database, objects
        self.cluster: Cluster | None = None
        self.front: Front | None = None
        self._sending: threading.Thread | None = None
        self.machine, self._data = machine, data
        self._stack = ExitStack()
        self.senders: list[Sender] = []

    def __enter__(self) -> Self:
        for node in (self.outside, self.archive, self.workstation):
            self._stack.enter_context(node)
        around = Around(
            outside=self.outside.port,
            archive=self.archive.port,
            workstation=self.workstation.port,
            extra=self._extra + self._backing(),
            **self._options,
        )
        self.site = FaultSite(
            self.folder, around, machine=self.machine, data=self._data
        )
        self._stack.callback(self.site.end)
        self.journal.note("begin", seed=self._seed)
        return self

    def _backing(self) -> str:
        """Start what the site keeps its things in; return the settings."""
        settings = ""
        if self._database == "postgres":
            self.cluster = self._stack.enter_context(cluster_of(self.folder))
            settings += database_of(self.cluster, self.folder)
        if self._objects:
            data = self._data or self.folder / "data"
            made = objects_of(self.folder, data)
            self.front, more = self._stack.enter_context(made)
            settings += more
        return settings

    def __exit__(self, *_: object) -> None:
        for sender in self.senders:
            sender.stop()
        self._stack.close()

    # Load

    def start_load(self) -> None:
        """Begin to send: protected and other images, and by STOW where web runs."""
        self.senders = [
            self._sender("protected", "a"),
            self._sender("originals", "b"),
        ]
        if self._web:
            self.senders.append(
                WebSender(
                    client=self._web_client,
                    takes_up=False,
                    **self._common("originals", "w"),
                )
            )
        for sender in self.senders:
            sender.start()

    def _sender(self, route: Route, name: str) -> Sender:
        return Sender(**self._common(route, name))

    def _common(self, route: Route, name: str) -> dict[str, object]:
        return {
            "route": route,
            "factory": Factory(self.folder / "objects", f"{self._seed}/{name}"),
            "ledger": self.ledger,
            "port": lambda: self.site.receiver_port,
            "busy": lambda: self.waiting(route) >= MOST_WAITING[route],
            "random": random.Random(f"{self._seed}/{name}"),
        }

    def _web_client(self) -> httpx.Client:
        port = json.loads((self.site.data / "run" / "web.json").read_text())["web"]
        pki = self.site.pki
        return httpx.Client(
            base_url=f"https://localhost:{port}",
            verify=client_context(pki, pki.modality),
            trust_env=False,
            timeout=60,
        )

    def send(self, route: Route, size: int) -> list[Item]:
        """Send one new series until all of it is acknowledged; return it."""
        items = self.make(route, size)
        self.send_all(items)
        return items

    def send_all(self, items: Sequence[Item], seconds: float = 120.0) -> None:
        """Send until everything is acknowledged, as a modality does."""
        deadline = time.monotonic() + seconds
        left = list(items)
        while left:
            assert time.monotonic() < deadline, f"not taken:\n{self.site.tail()}"
            answers = self.try_to_send(left)
            left = [item for item in left if answers.get(item.uid) != "Success"]
            if left:
                threading.Event().wait(0.2)

    def make(self, route: Route, size: int) -> list[Item]:
        """Write a new series, to be sent."""
        items = self.factory.series(route, size)
        self.ledger.made(items)
        return items

    def try_to_send(self, items: Sequence[Item], seconds: int = 60) -> dict[str, str]:
        """Send once; what was answered for each object, if anything."""
        answers = storescu(items, self.site.receiver_port, seconds)
        for uid in taken(answers):
            self.ledger.acknowledged(uid)
        return answers

    def start_sending(self, items: Sequence[Item]) -> None:
        """Begin to send once, beside what the caller does; see `wait_sending`."""
        self._sending = threading.Thread(
            target=self.try_to_send, args=(items,), daemon=True
        )
        self._sending.start()

    def wait_sending(self, seconds: float = 120.0) -> None:
        """Wait until what `start_sending` sends is answered."""
        assert self._sending is not None
        self._sending.join(seconds)
        assert not self._sending.is_alive(), "a sender is not answered"

    def acknowledged(self, items: Sequence[Item]) -> int:
        """How many of these were acknowledged."""
        kept = {item.uid for item in self.ledger.kept()}
        return sum(item.uid in kept for item in items)

    def pause(self, seconds: float) -> None:
        """Let a fault last."""
        threading.Event().wait(seconds)

    def wait_sent(self, items: Sequence[Item], seconds: float = 180.0) -> float:
        """Wait until everything owed of these is sent; return how long it took."""
        begun = time.monotonic()
        with self.site.index() as index:
            self.site.wait(
                lambda: all(_is_sent(index, item) for item in items),
                seconds,
                f"{len(items)} objects are sent",
            )
        return time.monotonic() - begun

    def waiting(self, route: Route) -> int:
        """How many acknowledged objects of a route have not arrived, about."""
        node = self.outside if route == "protected" else self.archive
        kept = sum(1 for item in self.ledger.kept() if item.route == route)
        return kept - node.count

    def progress(self) -> dict[str, int]:
        """Count what has been done so far, by where it is seen.

        Answers with Success of this run, those by STOW-RS apart, and arrivals.
        """
        web = [sender for sender in self.senders if isinstance(sender, WebSender)]
        return {
            "received": sum(s.answers for s in self.senders if s not in web),
            "web": sum(sender.answers for sender in web),
            "outside": self.outside.count,
            "archive": self.archive.count,
        }

    def received_since(self, since: float, *, web: bool = False) -> bool:
        """Whether an association, or request, that began later was answered well."""
        own = [s for s in self.senders if isinstance(s, WebSender) == web]
        return any(sender.worked > since for sender in own)

    def sending(self, *, web: bool = False) -> int:
        """How many senders have an association, or a request, open now, about."""
        return sum(s.sending for s in self.senders if isinstance(s, WebSender) == web)

    # Faults

    def disturb(self, kind: str, **fields: object) -> None:
        """Note that something was done to the gateway or to what is around it."""
        self.journal.note("disturbed", kind=kind, **fields)

    def disturbances(self) -> list[float]:
        """Return when a fault lay on the way of objects; see also `kills`."""
        events = self.journal.events("disturbed")
        return [event["at"] for event in events if "target" not in event]

    def kills(self) -> list[float]:
        """Return when what sends was killed."""
        events = self.journal.events("disturbed")
        return [event["at"] for event in events if event.get("target") in SENDING]

    # The end

    def settle(self, seconds: float = DRAIN_SECONDS) -> None:
        """Stop the load, let everything come to its end; retry what is held."""
        for sender in self.senders:
            sender.stop()
        if not self.site.alive():
            self.site.start()
        self.site.ready()
        for sender in self.senders:
            sender.wait(seconds)
        self.senders = []
        with self.site.index() as index:
            for _ in range(RETRIES):
                self.site.wait(
                    lambda: not self.unsettled(index), seconds, "an end of everything"
                )
                if not self.replay_held(index):
                    return

    def replay_held(self, index: Index) -> int:
        """Have what is held tried again, as a person would; how many revisions."""
        held = index.revisions("held")
        if held:
            done = self.site.cli("jobs", "replay", "all", "--reason", "tried again")
            assert done.returncode == 0, done.stderr
            self.journal.note("replayed", why=[one.reason for one in held])
        return len(held)

    def unsettled(self, index: Index) -> list[str]:
        """Return what is still under way, in words."""
        states = {revision.state for revision in index.revisions()}
        moving = [state for state in states if state not in invariants.SETTLED]
        return [
            *moving,
            *(series.series_instance_uid for series in index.open_series()),
            *(job for job, _ in invariants.unfinished_jobs(self.site.site)),
        ]

    def check_running(self) -> Report:
        """Check what must hold at any moment, while the load goes on."""
        kept = self.ledger.kept()
        report = Report()
        outside = list(self.outside.receptions())
        with invariants.opened(self.site.site) as parts:
            invariants.check_kept(parts, kept, report)
            invariants.check_outside(parts, outside, self.ledger.items(), report)
        self._check_trail(report)
        return report

    def check(self) -> Report:
        """Check everything, after `settle`."""
        self._start_an_hour_later()
        report = self.check_running()
        kept = self.ledger.kept()
        causes = invariants.Causes(self.disturbances(), self.kills())
        with invariants.opened(self.site.site) as parts:
            for node, name in ((self.outside, "outside"), (self.archive, "archive")):
                receptions = list(node.receptions())
                invariants.check_once(parts, receptions, causes, report, name)
            invariants.check_settled(parts, report)
            invariants.check_files(parts, report)
        self._check_arrived(kept, report)
        self._check_given_back(kept, report)
        return report

    def _start_an_hour_later(self) -> None:
        """Start anew as if an hour had passed: soon nothing half written is left."""
        self.site.stop()
        for path in invariants.leftovers(self.site.data):
            os.utime(path, (path.stat().st_mtime - 7200,) * 2)
        self.site.start()
        self.site.ready()
        self.site.wait(
            lambda: not any(invariants.leftovers(self.site.data)),
            TIDY_SECONDS,
            "the removal of what was left half written",
        )

    def _check_arrived(self, kept: Sequence[Item], report: Report) -> None:
        """Check that what was acknowledged went where its rule says."""
        at_archive = {one.sha256 for one in self.archive.receptions()}
        sources = set(_sources(self.outside))
        for item in kept:
            there = (
                item.uid in sources
                if item.route == "protected"
                else item.sha256 in at_archive
            )
            if not there:
                report.add("e", f"{item.uid} ({item.route}) did not arrive")

    def _check_given_back(self, kept: Sequence[Item], report: Report) -> None:
        for study in sorted({item.study for item in kept}):
            status = move_study(
                study,
                calling_ae="WORKSTATION",
                called_ae="MIAD-RECOVERY",
                port=self.site.recovery_port,
                destination="WORKSTATION",
            )
            if status != 0:
                report.add("d", f"C-MOVE of {study} ended with {status}")
        invariants.check_given_back(self.workstation.receptions(), kept, report)
        self._check_got(kept[-1:], kept, report)

    def _check_got(
        self, chosen: Sequence[Item], kept: Sequence[Item], report: Report
    ) -> None:
        """Fetch the study of some objects by C-GET, octets as they come."""
        for item in chosen:
            folder = self.folder / "got" / item.study
            folder.mkdir(parents=True, exist_ok=True)
            done = dcmtk(
                *("getscu", "-S", "+B", "-aet", "WORKSTATION", "-aec", "MIAD-RECOVERY"),
                *("-od", str(folder), "-k", "QueryRetrieveLevel=STUDY"),
                *("-k", f"StudyInstanceUID={item.study}"),
                *("127.0.0.1", str(self.site.recovery_port)),
            )
            found = invariants.digests_of(p for p in folder.iterdir() if p.is_file())
            wanted = {i.uid: i.sha256 for i in kept if i.study == item.study}
            report.figures["given back by C-GET"] += len(found)
            if found != wanted:
                report.add("d", f"C-GET of {item.study} differs: {done.stderr[-300:]}")

    def _check_trail(self, report: Report) -> None:
        done = self.site.cli("audit", "verify")
        if done.returncode != 0:
            report.add("e", f"audit verify: {done.stdout[-300:]}{done.stderr[-300:]}")


def _is_sent(index: Index, item: Item) -> bool:
    row = index.instance(item.uid)
    if row is None or row.revision_id is None:
        return False
    own = [d for d in index.deliveries_of(row.revision_id) if d.instance_id == row.id]
    return bool(own) and all(delivery.state == "sent" for delivery in own)


def _sources(node: StorageNode) -> Iterator[str]:
    """Yield the SOP Instance UIDs of the originals that a node's objects name."""
    assert isinstance(node, KeepingNode)
    for path in {one.path for one in node.receptions()}:
        ds = dcmread(path, stop_before_pixels=True)
        for source in ds.get("SourceImageSequence", []):
            yield str(source.ReferencedSOPInstanceUID)
