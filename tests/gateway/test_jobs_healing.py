"""What goes wrong with jobs, and what becomes of it: real workers on SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.stages.queues import PROTECT, PROTECT_GPU, queue_for_protection
from tests.gateway.outside import FILES, Outside, unused_port
from tests.gateway.test_jobs_workers import CLASSES, Site, wait_until
from tests.gateway.worker_process import EXECUTOR

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.index.close()


def with_jobs(site: Site, statement: str, *values: object) -> list[tuple[object, ...]]:
    """Look at or change the jobs, beside what else does."""
    with (
        closing(sqlite3.connect(site.directory / "jobs.sqlite")) as connection,
        connection,
    ):
        return connection.execute(statement, values).fetchall()


def state_of(site: Site) -> list[str]:
    return [one.state for one in site.index.revisions()]


def errors_of(site: Site) -> set[str]:
    return {one.last_error for one in site.index.deliveries_of(1)}


def failures_of(site: Site) -> int:
    return max((d.attempts for d in site.index.deliveries_of(1)), default=0)


def test_what_cannot_be_sent_for_too_long_is_held_and_can_be_replayed(
    site: Site,
) -> None:
    site.say("settings.json", json.dumps({"give_up_after_hours": 1e-4}))
    site.receive(*FILES)
    outside = Outside(port=unused_port())
    with site.worker(outside.port):
        wait_until(lambda: state_of(site) == ["held"])
    (found,) = site.index.revisions()
    assert found.reason == "of 4 instances 4 held at outside"
    assert all("could not be sent for 0.0001 hours" in e for e in errors_of(site))

    assert site.index.release_revision(1, only_held=True)
    assert not site.index.release_revision(1, only_held=True)
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(site.is_delivered)
    assert len(outside.arrivals) == len(FILES)


def test_a_job_whose_thread_ended_without_a_trace_is_done_again(site: Site) -> None:
    site.receive(*FILES)
    outside = Outside()
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(site.is_delivered)
        # As where the end of a job could not be written: it stays under way.
        with_jobs(
            site,
            "UPDATE workflow_status SET status = 'PENDING', output = NULL,"
            " completed_at = NULL WHERE name = 'export'",
        )
        asked = "SELECT status FROM workflow_status WHERE name = 'export'"
        wait_until(lambda: with_jobs(site, asked) == [("SUCCESS",)])

    assert len(outside.arrivals) == len(FILES)


def test_outside_its_hours_only_the_urgent_is_sent(site: Site) -> None:
    now = datetime.now(UTC)
    closed = {
        "from": f"{now + timedelta(hours=6):%H:%M}",
        "to": f"{now + timedelta(hours=7):%H:%M}",
    }
    site.say("settings.json", json.dumps({"hours": [closed]}))
    site.say("urgent-ct")
    site.receive("MR_small.dcm", series_instance_uid="1.2.3.1")
    site.receive("CT_small.dcm", series_instance_uid="1.2.3.2")
    outside = Outside()
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(lambda: sorted(state_of(site)) == ["delivered", "routed"])
        # A series is routed a moment before its export is asked for.
        asked = (
            "SELECT status, delay_until_epoch_ms / 1000 FROM workflow_status"
            " WHERE name = 'export' AND priority = 20"
        )
        wait_until(lambda: bool(with_jobs(site, asked)))
    assert len(outside.arrivals) == outside.associations == 1
    (job,) = with_jobs(site, asked)
    opens = datetime.fromtimestamp(float(str(job[1])), UTC)
    assert job[0] == "DELAYED"
    assert timedelta(hours=5) < opens - now <= timedelta(hours=6)

    site.say("settings.json", "{}")  # the hours are lifted: nobody waits for them
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(site.is_delivered)


def test_a_wait_that_a_clock_made_too_long_is_cut_short(site: Site) -> None:
    site.receive(*FILES)
    outside = Outside(port=unused_port())
    with site.worker(outside.port):
        wait_until(lambda: failures_of(site) >= 1)
    with_jobs(
        site,
        "UPDATE workflow_status SET status = 'DELAYED', executor_id = NULL,"
        " delay_until_epoch_ms = unixepoch() * 1000 + 86400000"
        " WHERE name = 'export' AND status IN ('DELAYED', 'ENQUEUED', 'PENDING')",
    )
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(site.is_delivered)
    assert len(outside.arrivals) == len(FILES)


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("protect", "ERROR", "the job protect:1#1 ended as ERROR"),
        (
            "export",
            "MAX_RECOVERY_ATTEMPTS_EXCEEDED",
            "of 4 instances 4 held at outside",
        ),
    ],
)
def test_a_job_that_ended_badly_leaves_its_series_held(
    site: Site, name: str, status: str, reason: str
) -> None:
    hold = site.say("hold")
    site.receive(*FILES)
    outside = Outside(port=unused_port())
    with site.worker(outside.port):
        wait_until(site.is_at_work)
        if name == "export":
            hold.unlink()
            wait_until(lambda: failures_of(site) >= 1)
    hold.unlink(missing_ok=True)
    with_jobs(
        site,
        "UPDATE workflow_status SET status = ? WHERE name = ? AND status != 'SUCCESS'",
        *(status, name),
    )
    with site.worker(outside.port):
        wait_until(lambda: state_of(site) == ["held"])
    (found,) = site.index.revisions()
    assert found.reason == reason
    if name == "export":
        assert all(f"ended as {status}; last: " in e for e in errors_of(site))

    assert site.index.release_revision(1, only_held=True)
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(site.is_delivered)
    assert len(outside.arrivals) == len(FILES)


def test_jobs_of_an_older_version_are_made_anew_and_old_ones_are_pruned(
    site: Site,
) -> None:
    hold = site.say("hold")
    site.receive(*FILES)
    outside = Outside()
    with outside.listening(CLASSES):
        with site.worker(outside.port):
            wait_until(site.is_at_work)
        hold.unlink()
        with_jobs(site, "UPDATE workflow_status SET application_version = '0'")
        open_jobs = "SELECT count(*) FROM workflow_status WHERE completed_at IS NULL"
        with site.worker(outside.port):
            wait_until(site.is_delivered)
            # A job ends after what it did; what has not ended has no age.
            wait_until(lambda: with_jobs(site, open_jobs) == [(0,)])
        assert len(outside.arrivals) == len(FILES)
        (found,) = site.index.revisions()
        assert found.run == 2

        week = timedelta(days=7, minutes=1) / timedelta(milliseconds=1)
        with_jobs(
            site, "UPDATE workflow_status SET completed_at = completed_at - ?", week
        )
        count = "SELECT count(*) FROM workflow_status"
        assert with_jobs(site, count) > [(3,)]
        with site.worker(outside.port):
            wait_until(lambda: with_jobs(site, count) == [(0,)])


def test_what_waits_for_a_gpu_that_is_lost_is_protected_without(site: Site) -> None:
    site.say("silent", "2")
    gpu = replace(EXECUTOR, id="gpu/worker-0/1", machine="gpu", device="cuda:0")
    site.work.register(gpu)
    site.receive(*FILES)
    outside = Outside()
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(site.is_delivered)

    states = {one.id: one.state for one in site.work.executors()}
    assert states[gpu.id] == "lost"
    # Its queue was asked first: the job that was moved has no other name.
    found = with_jobs(
        site, "SELECT queue_name FROM workflow_status WHERE name = ?", "protect"
    )
    assert found == [("protect",)]


def test_where_a_series_is_protected(site: Site) -> None:
    assert queue_for_protection(site.work) == PROTECT
    site.work.register(replace(EXECUTOR, id="a", machine="a"))
    assert queue_for_protection(site.work) == PROTECT
    site.work.stopped("a")
    site.work.register(replace(EXECUTOR, id="b", machine="b", device="cuda:1"))
    assert queue_for_protection(site.work) == PROTECT_GPU
