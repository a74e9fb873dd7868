"""One round: files into a fresh gateway, protected objects out, originals back."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.corpus.find import FoundFile
from benchmarks.corpus.ledger import Ledger, Received
from benchmarks.corpus.node import Arrived, DiskNode
from benchmarks.corpus.peers import retrieve_study, send_files
from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of
from gateway.app.places import Places
from gateway.audit.log import AuditLog
from gateway.demo.site import OUTSIDE, WORKSTATION, GatewayProcess, write_site
from gateway.store.database import Database

SUCCESS: Final = 0x0000
STAND_IN: Final = "benchmarks.corpus.stand_in"
YEAR_SECONDS: Final = 365 * 86400.0
"""For `GatewayProcess.wait_until`, whose end here is the stall."""

QUICK: Final = """
[protection.params.search]
budget = 16

[protection.params.delta]
iterations = 1
"""

Told = Callable[[int], None]
"""Called with the number of files that are settled so far; what it raises ends
the round."""


class Interrupted(Exception):
    """The run was given up while a round was waiting."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a corpus run is done.

    Attributes
    ----------
    quick
        Whether 16 marks tried and one step of δ replace search and PGD.
    stand_in
        Whether one random mark replaces the engine altogether.
    threads
        Threads of torch in each gateway.
    resume
        Whether rounds that an earlier run finished are taken as it found them.
    stall_seconds
        A round in which nothing moves on for so long is given up.
    """

    quick: bool = False
    stand_in: bool = False
    threads: int = 1
    resume: bool = False
    stall_seconds: float = 3600.0

    @property
    def how(self) -> str:
        """What marks are like: rounds done otherwise are done again."""
        if self.stand_in:
            return "stand-in"
        return "quick" if self.quick else "full"


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What a round saw.

    Attributes
    ----------
    files, statuses
        What was sent, and the C-STORE status of each.
    received
        What the gateway's index says at the end, by SOP Instance UID.
    refused
        What its audit trail says of refused objects, by SOP Instance UID.
    outside, returned
        What arrived at the outside node and at the authorised one.
    settled
        Whether the gateway came to an end with everything.
    """

    files: Sequence[FoundFile]
    statuses: Sequence[int]
    received: Mapping[str, Received]
    refused: Mapping[str, str] = field(default_factory=dict)
    outside: Sequence[Arrived]
    returned: Sequence[Arrived]
    settled: bool


def pass_through(
    files: Sequence[FoundFile], directory: Path, options: Options, told: Told
) -> Passage:
    """Send files to a gateway of their own and ask their originals back.

    Parameters
    ----------
    files
        No SOP Instance UID twice; sorted by study.
    directory
        ``outside`` and ``returned`` are left in it, the site is removed.
    options
        How.
    told
        Told of the files that are settled.
    """
    shutil.rmtree(directory, ignore_errors=True)
    outside = DiskNode(OUTSIDE, directory / "outside")
    station = DiskNode(WORKSTATION, directory / "returned")
    site = directory / "site"
    site.mkdir(parents=True)
    with outside, station:
        config = _configured(site, outside, station, options)
        module = STAND_IN if options.stand_in else "gateway.cli.main"
        with GatewayProcess(config, directory / "gateway.log", module) as gateway:
            ports = gateway.wait_for_ports(site / "data")
            statuses = send_files(files, ports.receiver)
            with Ledger(_index(config)) as ledger:
                refused = sum(status != SUCCESS for status in statuses)
                wait = _Wait(ledger, refused, options.stall_seconds, told)
                gateway.wait_until(wait.is_over, YEAR_SECONDS)
                received = ledger.received()
            for study in _studies(files, statuses):
                retrieve_study(study, ports.recovery)
        refused_by_uid = _refused(site / "data")
    shutil.rmtree(site, ignore_errors=True)
    return Passage(
        files=files,
        statuses=statuses,
        received=received,
        refused=refused_by_uid,
        outside=outside.arrived,
        returned=station.arrived,
        settled=wait.settled,
    )


def _configured(
    site: Path, outside: DiskNode, station: DiskNode, options: Options
) -> Path:
    path = write_site(
        site, None, outside_port=outside.port, workstation_port=station.port
    )
    further = f"\n[worker]\ncpu_threads = {options.threads}\n"
    further += QUICK if options.quick else ""
    path.write_text(path.read_text("utf-8") + further, "utf-8")
    return path


def _refused(data: Path) -> dict[str, str]:
    """Read what the trail says of objects that were not stored."""
    entries = AuditLog(Places(data).audit).entries()
    return {
        str(entry["sop_instance_uid"]): str(entry.get("message", ""))
        for entry in entries
        if (entry["action"], entry["outcome"]) == ("store", "refused")
    }


def _index(config: Path) -> Database:
    site = load_site(config)
    return open_index_of(site, open_keys_of(site)).database


def _studies(files: Sequence[FoundFile], statuses: Sequence[int]) -> list[str]:
    stored = [
        file.facts.study_instance_uid
        for file, status in zip(files, statuses, strict=True)
        if status == SUCCESS
    ]
    return list(dict.fromkeys(stored))


class _Wait:
    """Knows when a gateway is done with all it received, or stands still."""

    def __init__(
        self, ledger: Ledger, refused: int, stall_seconds: float, told: Told
    ) -> None:
        self._ledger = ledger
        self._refused = refused
        self._stall_seconds = stall_seconds
        self._told = told
        self._last: tuple[int, ...] = ()
        self._moved = time.monotonic()
        self.settled = False

    def is_over(self) -> bool:
        """Whether all is settled, or nothing has moved for too long."""
        now = self._ledger.progress()
        revisions, opened, pending, decided, _ = now
        self._told(decided + self._refused)
        if now != self._last:
            self._last, self._moved = now, time.monotonic()
            self.settled = revisions == opened == pending == 0
        return self.settled or time.monotonic() - self._moved > self._stall_seconds


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
