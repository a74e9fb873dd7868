"""A worker of its own process, with a protection double; run by test_jobs.

Usage: python -m tests.gateway.worker_process DIRECTORY PORT
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from dbos import DBOS

from gateway.audit.log import AuditLog
from gateway.dicom.commitment_scu import CommitmentUser
from gateway.route.completion import IdleTimes
from gateway.route.conditions import compile_condition
from gateway.route.router import CompiledRule, Router
from gateway.stages.attempts import Attempts
from gateway.stages.commit import Committer
from gateway.stages.export import Exporter
from gateway.stages.flow import Flow
from gateway.stages.gate import Gate
from gateway.stages.sweep import Sweep
from gateway.stages.workflows import Jobs, declare_queues, jobs_config
from gateway.store.index import open_index, utc_now
from gateway.supervise import on_stop_signal
from tests.gateway.doubles import MarkingDouble, RecordsDouble
from tests.gateway.outside import destination, send_objects
from tests.gateway.stored import INDEX_KEY, a_store


def main(directory: Path, port: int) -> None:
    index = open_index(directory / "index.sqlite", INDEX_KEY)
    store = a_store(directory / "store")
    records = RecordsDouble()
    protection = MarkingDouble(index, store, records)
    if (directory / "fail-ct").exists():
        protection.fail_for["CT"] = ValueError("unforeseen CompressedSamples^CT1")
    if (directory / "crash-ct").exists():
        protection.crash_for = "CT"
    rule = CompiledRule(
        name="all",
        condition=compile_condition("true"),
        destinations=("outside",),
        protect=True,
    )
    flow = Flow(
        index=index,
        store=store,
        router=Router((rule,), "first"),
        protection=protection,
        attempts=Attempts(directory / "attempts"),
    )
    place = destination(port, commitment=(directory / "commits").exists())
    exporter = Exporter(
        index=index,
        store=store,
        vault=records,
        audit=AuditLog(directory / "audit" / "audit.jsonl"),
        destinations={"outside": place},
        calling_ae="GATEWAY",
        send=send_objects,
    )
    DBOS(config=jobs_config(f"sqlite:///{directory / 'jobs.sqlite'}", "test"))
    committer = Committer(
        index=index,
        audit=exporter.audit,
        destinations=exporter.destinations,
        ask=CommitmentUser(calling_ae="GATEWAY").ask,
    )
    jobs = Jobs(flow, exporter, Gate(), committer)
    DBOS.launch()
    declare_queues()
    idle = IdleTimes(default_seconds=0.2, seconds_by_ae={})
    stop = threading.Event()
    with on_stop_signal(stop.set):
        Sweep(index=index, jobs=jobs, idle=idle, clock=utc_now).run(stop, 0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
