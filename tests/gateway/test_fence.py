"""Work on objects and their erasure exclude each other, on one machine or several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from gateway.errors import GatewayError
from gateway.store.fence import Fence, SharedFence
from gateway.store.server import DRIVER, Server
from tests.gateway.postgres import Cluster

Opens = Callable[[], Fence]


@pytest.fixture(params=["files", "postgresql"])
def opens(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """What each process of a site does."""
    if request.param == "files":
        yield lambda: Fence(tmp_path / "fence")
        return
    cluster: Cluster = request.getfixturevalue("postgres_cluster")
    url = make_url(cluster.database()).set(drivername=DRIVER)
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(SharedFence(Server(url=url))))


def test_any_number_work(opens: Opens) -> None:
    with opens().working(), opens().working():
        pass


def test_erasure_waits_for_work_no_longer_than_it_is_told(opens: Opens) -> None:
    with (
        opens().working(),
        pytest.raises(GatewayError, match="give the command again"),
        opens().alone(0.2),
    ):
        pass
    with opens().alone(5.0):  # nothing is left of the try
        pass
    with opens().working():
        pass


def test_work_waits_for_erasure(opens: Opens) -> None:
    worker, begun = opens(), threading.Event()

    def work() -> None:
        with worker.working():
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        with opens().alone(5.0):
            done = pool.submit(work)
            assert not begun.wait(0.3)
        done.result(10.0)
    assert begun.is_set()


def test_new_work_waits_behind_who_wants_to_erase(opens: Opens) -> None:
    """Else a site that is never idle would never erase."""
    first, second, eraser = opens(), opens(), opens()
    order: list[str] = []
    erasing = threading.Event()

    def erase() -> None:
        erasing.set()
        with eraser.alone(10.0):
            order.append("erased")

    def work() -> None:
        with second.working():
            order.append("worked")

    with ThreadPoolExecutor(2) as pool:
        with first.working():
            erased = pool.submit(erase)
            assert erasing.wait(5.0)
            threading.Event().wait(0.3)  # until it stands in line
            worked = pool.submit(work)
            threading.Event().wait(0.3)
            assert order == []
        erased.result(15.0)
        worked.result(15.0)
    assert order == ["erased", "worked"]
