"""The durable jobs on SQLite: a real worker process, a real node outside."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.stages.attempts import LIMIT
from gateway.store.index import Index, open_index
from tests.endtoend.scan import layers
from tests.gateway.outside import FILES, Outside, receive, unused_port
from tests.gateway.stored import INDEX_KEY, a_store
from tests.waiting import wait_until

CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.20",
)

pytestmark = pytest.mark.slow


@contextmanager
def worker(directory: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that is killed, as by a power cut, when the block ends."""
    command = [sys.executable, "-m", "tests.gateway.worker_process"]
    with (directory / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, str(directory), str(port)], stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    yield opened
    opened.close()


def received(directory: Path, index: Index) -> None:
    store = a_store(directory / "store")
    for name in FILES:
        receive(store, index, name)


def states(index: Index) -> list[str]:
    revisions = index.revisions()
    return [d.state for r in revisions for d in index.deliveries_of(r.id)]


def is_delivered(index: Index) -> bool:
    return [r.state for r in index.revisions()] == ["delivered"]


def attempts(index: Index) -> int:
    found = [d.attempts for r in index.revisions() for d in index.deliveries_of(r.id)]
    return max(found, default=0)


def test_a_silent_series_is_closed_protected_and_delivered(
    tmp_path: Path, index: Index
) -> None:
    received(tmp_path, index)
    outside = Outside()
    with outside.listening(CLASSES), worker(tmp_path, outside.port):
        wait_until(lambda: is_delivered(index))

    assert len(outside.arrivals) == len(FILES)
    originals = {i.sop_instance_uid for i in index.instances_of_revision(1)}
    assert originals.isdisjoint(outside.kept)


def test_what_comes_late_is_the_next_revision(tmp_path: Path, index: Index) -> None:
    store = a_store(tmp_path / "store")
    receive(store, index, FILES[0])
    outside = Outside()
    with outside.listening(CLASSES), worker(tmp_path, outside.port):
        wait_until(lambda: is_delivered(index))
        receive(store, index, FILES[1])
        wait_until(lambda: [r.state for r in index.revisions()] == ["delivered"] * 2)

    assert [r.revision for r in index.revisions()] == [1, 2]
    assert len(outside.arrivals) == 2


def test_a_node_that_is_down_then_refuses_then_accepts(
    tmp_path: Path, index: Index
) -> None:
    received(tmp_path, index)
    outside = Outside(port=unused_port(), status_of=lambda _uid: 0xA700)
    with worker(tmp_path, outside.port):
        wait_until(lambda: attempts(index) >= 2)
        with outside.listening(CLASSES):
            wait_until(lambda: outside.associations >= 2)
            assert set(states(index)) == {"pending"}
            outside.status_of = lambda _uid: 0
            wait_until(lambda: is_delivered(index))

    assert len(outside.arrivals) == len(FILES)


def test_kill_9_in_the_middle_of_an_export(tmp_path: Path, index: Index) -> None:
    received(tmp_path, index)
    reached, killed = threading.Event(), threading.Event()

    def hold_the_third(_uid: str) -> int:
        if len(outside.arrivals) == 2:
            reached.set()
            assert killed.wait(60)
        return 0

    outside = Outside(status_of=hold_the_third)
    with outside.listening(CLASSES):
        with worker(tmp_path, outside.port):
            assert reached.wait(60)
        confirmed = outside.kept[:2]
        killed.set()
        with worker(tmp_path, outside.port):
            wait_until(lambda: is_delivered(index))

    assert [outside.kept.count(uid) for uid in confirmed] == [1, 1]
    assert len(set(outside.kept)) == len(FILES)
    # The one on the wire was kept but never confirmed: it came again, the same.
    assert len(set(outside.arrivals)) == len(FILES)
    assert len(outside.arrivals) <= len(FILES) + 1


def test_kill_9_during_the_wait_for_a_node_that_is_down(
    tmp_path: Path, index: Index
) -> None:
    received(tmp_path, index)
    outside = Outside(port=unused_port())
    with worker(tmp_path, outside.port):
        wait_until(lambda: attempts(index) >= 1)
    before = attempts(index)
    with outside.listening(CLASSES), worker(tmp_path, outside.port):
        wait_until(lambda: is_delivered(index))

    assert attempts(index) <= before + 2
    assert sorted(set(outside.kept)) == sorted(outside.kept)


def test_an_unforeseen_failure_is_retried_then_held_and_can_be_retried(
    tmp_path: Path, index: Index
) -> None:
    received(tmp_path, index)
    (tmp_path / "fail-ct").touch()
    outside = Outside()
    with outside.listening(CLASSES):
        with worker(tmp_path, outside.port):
            wait_until(lambda: [r.state for r in index.revisions()] == ["held"])
        assert len(outside.arrivals) == len(FILES) - 1
        (held,) = index.instances_in_state("held")
        assert (held.modality, held.reason) == ("CT", "failed")
        assert held.message.startswith("ValueError at doubles.py:")

        (tmp_path / "fail-ct").unlink()
        index.release_revision(1)
        with worker(tmp_path, outside.port):
            wait_until(lambda: is_delivered(index))

    assert len(outside.arrivals) == len(set(outside.kept)) == len(FILES)


def test_without_its_jobs_the_worker_makes_them_anew(
    tmp_path: Path, index: Index
) -> None:
    received(tmp_path, index)
    outside = Outside(port=unused_port())
    with worker(tmp_path, outside.port):
        wait_until(lambda: attempts(index) >= 1)
    for path in tmp_path.glob("jobs.sqlite*"):
        path.unlink()
    with outside.listening(CLASSES), worker(tmp_path, outside.port):
        wait_until(lambda: is_delivered(index))

    assert sorted(set(outside.kept)) == sorted(outside.kept)


def test_an_object_that_kills_the_worker_is_held_and_the_others_go_on(
    tmp_path: Path, index: Index
) -> None:
    received(tmp_path, index)
    (tmp_path / "crash-ct").touch()
    deaths = 0

    def is_held() -> bool:
        return [r.state for r in index.revisions()] == ["held"]

    outside = Outside()
    with outside.listening(CLASSES):
        while not is_held():
            with worker(tmp_path, outside.port) as process:
                wait_until(lambda: is_held() or process.poll() is not None)
                deaths += process.poll() is not None

    assert deaths == LIMIT
    (held,) = index.instances_in_state("held")
    assert (held.modality, held.reason) == ("CT", "crashes")
    assert len(outside.arrivals) == len(FILES) - 1


def test_the_jobs_database_holds_nothing_about_a_patient(
    tmp_path: Path, index: Index
) -> None:
    received(tmp_path, index)
    (tmp_path / "fail-ct").touch()
    outside = Outside()
    with outside.listening(CLASSES), worker(tmp_path, outside.port):
        wait_until(lambda: [r.state for r in index.revisions()] == ["held"])

    contents = [path.read_bytes() for path in tmp_path.glob("jobs.sqlite*")]
    # Results and errors are pickles in base64: those are looked into as well.
    content = b"\n".join(layer for octets in contents for layer in layers(octets))
    assert b"protect:1#1" in content
    assert b"StepFailed" in content
    (held,) = index.instances_in_state("held")
    for secret in (
        *(b"CompressedSamples", b"unforeseen", b"1CT1"),
        *(held.study_instance_uid.encode(), held.series_instance_uid.encode()),
        *(held.sop_instance_uid.encode(), held.sha256.encode()),
    ):
        assert secret not in content
