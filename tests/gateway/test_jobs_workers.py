"""Several workers of one site: real processes, killed, stopped, paused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.stages.heartbeat import EXIT_LOST
from gateway.store.index import Index, open_index
from gateway.store.rows import Executor
from gateway.store.work import Work
from tests.gateway.outside import FILES, Outside, receive
from tests.gateway.stored import INDEX_KEY, a_store
from tests.waiting import wait_until as wait_for

CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.20",
)
TAKEN_UP_SECONDS = 60.0
"""From the last heartbeat of a worker that was killed."""

PATIENCE_SECONDS = 240.0
"""Several processes start in each test, and a busy machine starts them slowly."""

pytestmark = pytest.mark.slow


def wait_until(condition: Callable[[], bool]) -> None:
    wait_for(condition, PATIENCE_SECONDS)


class Site:
    """Workers of one site in a directory, and the index as a test sees it."""

    def __init__(self, directory: Path, url: str = "") -> None:
        self.directory = directory
        self.url = url
        self.index = (
            Index(url) if url else open_index(directory / "index.sqlite", INDEX_KEY)
        )
        self.work = Work(self.index.database)
        self.say("index-url", url)

    def say(self, name: str, text: str = "") -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def receive(self, *names: str, **changed: str) -> None:
        store = a_store(self.directory / "store")
        for name in names:
            receive(store, self.index, name, **changed)

    @contextmanager
    def worker(self, port: int, slot: int = 0) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "tests.gateway.worker_process"]
        with (self.directory / f"worker-{slot}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, str(self.directory), str(port), str(slot)],
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def shown(self, slot: int) -> Executor | None:
        found = [one for one in self.work.executors() if one.slot == slot]
        return found[-1] if found else None

    def lives(self, slot: int) -> bool:
        one = self.shown(slot)
        return one is not None and one.beats > 0

    def is_at_work(self) -> bool:
        """Whether some worker has begun to protect the first object."""
        return bool(self.work.attempts_of(range(1, 100)))

    def is_delivered(self) -> bool:
        found = self.index.revisions()
        return bool(found) and {r.state for r in found} == {"delivered"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.index.close()


@pytest.fixture
def shared(tmp_path: Path, postgres_url: str) -> Iterator[Site]:
    """A site whose index and jobs lie on PostgreSQL."""
    made = Site(tmp_path, postgres_url)
    made.say("jobs-url", postgres_url)
    yield made
    made.index.close()


def test_the_urgent_is_protected_and_sent_before_the_routine(site: Site) -> None:
    site.say("urgent-ct")
    site.say("settings.json", json.dumps({"concurrency": 1, "timeout_seconds": 200}))
    hold = site.say("hold")
    reached, go_on = threading.Event(), threading.Event()

    def hold_the_first(_uid: str) -> int:
        reached.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return 0

    outside = Outside(status_of=hold_the_first)
    for number in range(20):
        uid = f"1.2.826.0.1.{number + 1}"
        changed = {"series_instance_uid": f"1.2.3.{number}", "sop_instance_uid": uid}
        site.receive("MR_small.dcm", **changed)
    with outside.listening(CLASSES), site.worker(outside.port):
        wait_until(site.is_at_work)
        wait_until(lambda: not site.work.due(1) and not site.index.open_series())
        site.receive("CT_small.dcm", series_instance_uid="1.2.4")
        wait_until(lambda: 10 in {r.priority for r in site.index.revisions()})
        hold.unlink()
        # All are protected while the first is on its way: then the urgent goes.
        assert reached.wait(PATIENCE_SECONDS)
        wait_until(lambda: {r.state for r in site.index.revisions()} == {"routed"})
        go_on.set()
        wait_until(site.is_delivered)

    instances = [site.index.instance_by_id(number) for number in range(1, 22)]
    made = [site.index.protected_of(one.id) for one in instances if one is not None]
    urgent = next(one for one in instances if one and one.modality == "CT")
    in_order = sorted((one.id, one.instance_id) for one in made if one is not None)
    assert [instance for _, instance in in_order].index(urgent.id) == 1
    mark = site.index.protected_of(urgent.id)
    assert mark is not None
    # One of the routine may be on its way by then.
    assert outside.kept.index(mark.sop_instance_uid) <= 1
    assert len(outside.kept) == 21


def test_on_postgresql_a_killed_workers_series_completes_on_another(
    shared: Site, record_property: pytest.RecordProperty
) -> None:
    seconds = completed_after_kill(shared)
    record_property("seconds_after_last_heartbeat", seconds)
    assert seconds < TAKEN_UP_SECONDS


def test_on_sqlite_a_killed_workers_series_completes_on_another(site: Site) -> None:
    site.say("silent", "6")
    assert completed_after_kill(site) < TAKEN_UP_SECONDS


def completed_after_kill(site: Site) -> float:
    """Seconds from the killed worker's last heartbeat to the last delivery."""
    hold = site.say("hold")
    site.receive(*FILES)
    outside = Outside()
    with outside.listening(CLASSES), site.worker(outside.port, 0) as first:
        wait_until(site.is_at_work)
        with site.worker(outside.port, 1):
            wait_until(lambda: site.lives(1))
            first.kill()
            first.wait()
            hold.unlink()
            lost = site.shown(0)
            assert lost is not None
            wait_until(site.is_delivered)
            done = datetime.now(UTC)

    assert len(outside.arrivals) == len(set(outside.kept)) == len(FILES)
    states = {one.slot: one.state for one in site.work.executors()}
    assert states == {0: "lost", 1: "live"}
    return (done - datetime.fromisoformat(lost.beat_at)).total_seconds()


def test_what_a_stopped_worker_had_is_taken_up_at_once(site: Site) -> None:
    site.say("silent", "6000")  # it does not come to be taken for lost
    hold = site.say("hold")
    site.receive(*FILES)
    outside = Outside()
    with outside.listening(CLASSES), site.worker(outside.port, 0) as first:
        wait_until(site.is_at_work)
        with site.worker(outside.port, 1):
            wait_until(lambda: site.shown(1) is not None)
            first.send_signal(signal.SIGTERM)
            assert first.wait(PATIENCE_SECONDS) == 0
            hold.unlink()
            wait_until(site.is_delivered)

    assert len(outside.arrivals) == len(FILES)
    one = site.shown(0)
    assert one is not None
    assert one.state == "stopped"


def test_a_worker_taken_for_lost_ends_and_does_no_harm(shared: Site) -> None:
    # Not on SQLite: a process that stands still there may hold the lock of the file,
    # which nobody can take from it.
    shared.say("silent", "6")
    hold = shared.say("hold")
    shared.receive(*FILES)
    outside = Outside()
    with outside.listening(CLASSES), shared.worker(outside.port, 0) as first:
        wait_until(shared.is_at_work)
        with shared.worker(outside.port, 1):
            wait_until(lambda: shared.lives(1))
            first.send_signal(signal.SIGSTOP)
            hold.unlink()
            wait_until(shared.is_delivered)
            made = [shared.index.protected_of(number) for number in range(1, 5)]
            first.send_signal(signal.SIGCONT)
            assert first.wait(PATIENCE_SECONDS) == EXIT_LOST

    assert len(outside.arrivals) == len(FILES)
    assert [shared.index.protected_of(number) for number in range(1, 5)] == made


def test_an_object_that_kills_workers_is_held_whichever_workers_they_are(
    shared: Site,
) -> None:
    shared.say("silent", "3")
    shared.say("crash-ct")
    shared.receive(*FILES)
    deaths = 0

    def is_held() -> bool:
        return [r.state for r in shared.index.revisions()] == ["held"]

    outside = Outside()
    with outside.listening(CLASSES):
        while not is_held():
            with shared.worker(outside.port, slot=deaths) as process:
                wait_until(lambda: is_held() or process.poll() is not None)
                deaths += process.poll() is not None

    (held,) = shared.index.instances_in_state("held")
    assert (held.modality, held.reason, deaths) == ("CT", "crashes", 3)
    assert len(outside.arrivals) == len(FILES) - 1
