"""A worker of its own process, with a protection double; run by test_flow_jobs.

Usage: python -m tests.gateway.worker_process DIRECTORY PORT [SLOT]

Files in the directory say what it does: ``fail-ct``, ``crash-ct``, ``hold`` (waits
before each object is marked, for as long as the file is there), ``urgent-ct`` (a
rule), ``settings.json`` (of the destination), ``silent`` (seconds), ``index-url`` and
``jobs-url`` (where its databases are, if not in the directory).
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from dbos import DBOS

from config.schema import Destination
from gateway.app.worker import Hands
from gateway.audit.log import AuditLog
from gateway.dicom.commitment_scu import CommitmentUser
from gateway.dicom.sender import Sender
from gateway.route.completion import IdleTimes
from gateway.route.conditions import compile_condition
from gateway.route.router import CompiledRule, Router
from gateway.route.urgency import URGENT
from gateway.stages.attempts import Attempts
from gateway.stages.commit import Committer
from gateway.stages.export import Exporter
from gateway.stages.flow import Flow
from gateway.stages.gate import Gate
from gateway.stages.heartbeat import Heartbeat
from gateway.stages.hours import Schedule
from gateway.stages.orders import Timing
from gateway.stages.queues import declare_queues, jobs_config, listen
from gateway.stages.rescue import Rescue
from gateway.stages.sweep import Sweep
from gateway.stages.workflows import Jobs
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index, utc_now
from gateway.store.rows import Executor
from gateway.store.work import Work
from gateway.supervise import on_stop_signal
from tests.gateway.doubles import MarkingDouble, RecordsDouble
from tests.gateway.outside import destination, send_objects
from tests.gateway.stored import INDEX_KEY, a_store


def main(directory: Path, port: int, slot: int = 0) -> None:
    index = the_index(directory)
    store = a_store(directory / "store")
    work = Work(index.database)
    executor = replace(
        EXECUTOR, id=f"test/worker-{slot}/{os.getpid()}", slot=slot, pid=os.getpid()
    )
    silent_seconds = float(said(directory, "silent") or "30")
    heartbeat = Heartbeat(work, executor, silent_seconds)
    heartbeat.start()
    outside = the_destination(directory, port)
    destinations = {"outside": outside}
    gate = Gate()
    database = said(directory, "jobs-url") or f"sqlite:///{directory / 'jobs.sqlite'}"
    DBOS(config=jobs_config(database, executor.id))
    listen("cpu", destinations)
    hands = Hands(gate, heartbeat, Sender(None))
    jobs = the_jobs(directory, index, store, hands, outside)
    DBOS.launch()
    declare_queues(destinations)
    idle = IdleTimes(default_seconds=0.2, seconds_by_ae={})
    rescue = Rescue(
        work,
        executor.id,
        silent_seconds=silent_seconds,
        keep=timedelta(days=7),
        now=utc_now,
    )
    rescue.give_up_older()
    sweep = Sweep(
        index=index, work=work, jobs=jobs, idle=idle, clock=utc_now, rescue=rescue
    )
    stop = threading.Event()
    with on_stop_signal(stop.set):
        sweep.run(stop, 0.1)
    gate.close(1.0)
    heartbeat.stop()
    os._exit(0)


EXECUTOR = Executor(
    id="",
    machine="test",
    kind="worker",
    slot=0,
    pid=0,
    device="cpu",
    version="",
    state="live",
    beats=0,
    started_at="",
    beat_at="",
)


def said(directory: Path, name: str) -> str:
    path = directory / name
    return path.read_text() if path.exists() else ""


def the_index(directory: Path) -> Index:
    url = said(directory, "index-url")
    return Index(url) if url else open_index(directory / "index.sqlite", INDEX_KEY)


def the_destination(directory: Path, port: int) -> Destination:
    settings = json.loads(said(directory, "settings.json") or "{}")
    return destination(port, **settings)


def the_jobs(
    directory: Path,
    index: Index,
    store: FileStore,
    hands: Hands,
    outside: Destination,
) -> Jobs:
    records = RecordsDouble()
    protection = MarkingDouble(index, store, records)
    protection.hold = directory / "hold"
    if (directory / "fail-ct").exists():
        protection.fail_for["CT"] = ValueError("unforeseen CompressedSamples^CT1")
    if (directory / "crash-ct").exists():
        protection.crash_for = "CT"
    work = Work(index.database)
    flow = Flow(
        index=index,
        store=store,
        router=Router(rules(urgent_ct=(directory / "urgent-ct").exists()), "first"),
        protection=protection,
        attempts=Attempts(work, hands.heartbeat.id),
    )
    exporter = Exporter(
        index=index,
        store=store,
        vault=records,
        audit=AuditLog(directory / "audit" / "audit.jsonl"),
        destinations={"outside": outside},
        calling_ae="GATEWAY",
        send=send_objects,
    )
    timing = Timing(
        schedules={"outside": Schedule(outside.hours, ZoneInfo("UTC"))},
        check=hands.heartbeat.check,
    )
    committer = Committer(
        index=index,
        audit=exporter.audit,
        destinations=exporter.destinations,
        ask=CommitmentUser(calling_ae="GATEWAY").ask,
    )
    return Jobs(flow, exporter, hands.gate, work, timing, committer)


def rules(*, urgent_ct: bool) -> tuple[CompiledRule, ...]:
    every = CompiledRule(
        name="all",
        condition=compile_condition("true"),
        destinations=("outside",),
        protect=True,
    )
    urgent = replace(
        every,
        name="urgent",
        condition=compile_condition('Modality == "CT"'),
        priority=URGENT,
    )
    return (urgent, every) if urgent_ct else (every,)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
