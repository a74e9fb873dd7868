"""Rows that share a commit: each is told what became of itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
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
    """Counts transactions, waits where it is told to, and has no room for some."""

    def __init__(self, url: str) -> None:
        super().__init__(url, INDEX_KEY)
        self.together: list[int] = []
        self.go_on = threading.Event()
        self.entered = threading.Event()
        self.full = False

    def add_instances(self, new: Sequence[NewInstance]) -> None:
        self.together.append(len(new))
        if self.full or any(row.sop_instance_uid == BAD for row in new):
            raise OperationalError("insert", {}, OSError("disk full"))
        super().add_instances(new)

    def add_instance(self, new: NewInstance) -> AddOutcome:
        self.entered.set()
        assert self.go_on.wait(60)
        if self.full or new.sop_instance_uid == BAD:
            raise OperationalError("insert", {}, OSError("disk full"))
        return super().add_instance(new)


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
    """Add rows while a commit is under way; what each was told."""
    committer = Committer(index)
    told: list[AddOutcome | SQLAlchemyError | None] = [None] * len(rows)

    def add(number: int) -> None:
        try:
            told[number] = committer.add(rows[number])
        except SQLAlchemyError as error:
            told[number] = error

    first = threading.Thread(target=committer.add, args=(row("1.2.0"),))
    first.start()
    assert index.entered.wait(60)
    threads = [threading.Thread(target=add, args=(n,)) for n in range(len(rows))]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(committer._waiting) == len(rows))
    index.go_on.set()
    for thread in (first, *threads):
        thread.join(60)
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
    index.go_on.set()
    committer = Committer(index)
    with pytest.raises(OperationalError):
        committer.add(row("1.2.9"))
    index.full = False
    index.go_on.clear()
    index.entered.clear()
    original = index.add_instance

    def fills_up(new: NewInstance) -> AddOutcome:
        outcome = original(new)
        index.full = True
        return outcome

    index.add_instance = fills_up  # type: ignore[method-assign]
    told = add_behind_a_commit(index, [row(GOOD), row("1.2.6")])
    assert all(isinstance(one, OperationalError) for one in told)
    assert index.instance(GOOD) is None
