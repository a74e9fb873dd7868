"""Rows that share a commit: each is told what became of itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gateway.store.committer import Committer
from gateway.store.index import AddOutcome, Index
from gateway.store.rows import NewInstance
from tests.gateway.stored import INDEX_KEY
from tests.waiting import wait_until

GOOD, DUPLICATE, CONFLICT, BAD = "1.2.1", "1.2.2", "1.2.3", "1.2.4"


class WatchedIndex(Index):
    """Counts what is in a transaction, and has no room for some rows."""

    def __init__(self, url: str) -> None:
        super().__init__(url, INDEX_KEY)
        self.url = url
        self.together: list[int] = []
        self.full = False

    def add_instances(self, new: Callable[[], Sequence[NewInstance]]) -> None:
        def watched() -> Sequence[NewInstance]:
            rows = new()
            self.together.append(len(rows))
            self._find_room(rows)
            return rows

        super().add_instances(watched)

    def add_instance(self, new: NewInstance) -> AddOutcome:
        self._find_room([new])
        return super().add_instance(new)

    def _find_room(self, rows: Sequence[NewInstance]) -> None:
        if self.full or any(row.sop_instance_uid == BAD for row in rows):
            raise OperationalError("insert", {}, OSError("disk full"))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[WatchedIndex]:
    index = WatchedIndex(f"sqlite:///{tmp_path / 'index.sqlite'}")
    yield index
    index.close()


def row(uid: str, sha256: str = "0" * 64) -> NewInstance:
    return NewInstance(
        sop_class_uid="1.2",
        sop_instance_uid=uid,
        study_instance_uid="1.3",
        series_instance_uid="1.4",
        sha256=sha256,
        size_bytes=1,
        path=f"originals/{uid}",
        transfer_syntax_uid="1.2.840.10008.1.2",
        calling_ae="A",
        called_ae="B",
        peer_address="127.0.0.1",
        received_at="2026",
    )


def add_behind_a_commit(
    index: WatchedIndex, rows: Sequence[NewInstance]
) -> list[AddOutcome | SQLAlchemyError | None]:
    """Add rows while another process writes; what each was told."""
    committer = Committer(index)
    told: list[AddOutcome | SQLAlchemyError | None] = [None] * len(rows)

    def add(number: int) -> None:
        try:
            told[number] = committer.add(rows[number])
        except SQLAlchemyError as error:
            told[number] = error

    threads = [threading.Thread(target=add, args=(n,)) for n in range(len(rows))]
    other = Index(index.url, INDEX_KEY)
    with other._database.write():
        for thread in threads:
            thread.start()
        wait_until(lambda: len(committer._waiting) == len(rows))
    for thread in threads:
        thread.join(60)
    other.close()
    return told


def test_rows_that_wait_share_one_transaction(index: WatchedIndex) -> None:
    rows = [row(f"1.2.{number}") for number in range(10, 30)]
    assert add_behind_a_commit(index, rows) == ["stored"] * 20
    assert index.together == [20]
    assert all(index.instance(r.sop_instance_uid) is not None for r in rows)


def test_each_of_a_transaction_is_told_its_own_outcome(index: WatchedIndex) -> None:
    Index.add_instance(index, row(DUPLICATE))
    Index.add_instance(index, row(CONFLICT))
    rows = [row(GOOD), row(DUPLICATE), row(CONFLICT, "1" * 64), row(BAD), row("1.2.5")]
    good, duplicate, conflict, bad, last = add_behind_a_commit(index, rows)
    assert (good, duplicate, conflict, last) == (
        "stored",
        "duplicate",
        "conflict",
        "stored",
    )
    assert isinstance(bad, OperationalError)
    assert index.instance(BAD) is None
    assert index.instance(GOOD) is not None
    kept = index.instance(CONFLICT)
    assert kept is not None
    assert kept.sha256 == "0" * 64


def test_two_of_one_object_in_a_transaction_are_one_and_its_duplicate(
    index: WatchedIndex,
) -> None:
    told = add_behind_a_commit(index, [row(GOOD), row(GOOD)])
    assert sorted(map(str, told)) == ["duplicate", "stored"]


def test_where_the_database_is_full_nobody_is_told_success(index: WatchedIndex) -> None:
    index.full = True
    told = add_behind_a_commit(index, [row(GOOD), row("1.2.6")])
    assert all(isinstance(one, OperationalError) for one in told)
    assert index.together == [2]
    assert index.instance(GOOD) is None


def test_where_no_transaction_begins_all_that_wait_are_told(
    index: WatchedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    committer = Committer(index)
    asked = threading.Semaphore(0)
    may_fail = threading.Event()

    def locked(_new: object) -> None:
        asked.release()
        assert may_fail.wait(60)
        raise OperationalError("BEGIN IMMEDIATE", {}, OSError("database is locked"))

    monkeypatch.setattr(index, "add_instances", locked)
    with ThreadPoolExecutor(2) as pool:
        told = [pool.submit(committer.add, row(uid)) for uid in (GOOD, "1.2.6")]
        assert asked.acquire(timeout=60)
        wait_until(lambda: len(committer._waiting) == 2)
        may_fail.set()
        assert all(isinstance(one.exception(60), OperationalError) for one in told)
    assert committer._waiting == []
    assert not asked.acquire(blocking=False)  # one wait for both
