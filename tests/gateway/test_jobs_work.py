"""What is due, asked of the index at a price that does not grow with what is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, insert

from gateway.store.index import Index, open_index, utc_now
from gateway.store.schema import revisions
from gateway.store.work import Work
from tests.gateway.outside import receive
from tests.gateway.stored import INDEX_KEY, a_store

DELIVERED = 20_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    yield opened
    opened.close()


@pytest.fixture
def work(index: Index) -> Work:
    return Work(index.database)


def close(index: Index, series: str) -> int:
    made = index.close_series(series, "MODALITY", utc_now())
    assert made is not None
    return made.id


def test_a_revision_is_due_until_its_run_has_a_job(
    index: Index, work: Work, tmp_path: Path
) -> None:
    store = a_store(tmp_path / "store")
    receive(store, index, "CT_small.dcm", series_instance_uid="1.2.1")
    receive(store, index, "MR_small.dcm", series_instance_uid="1.2.2")
    first, second = close(index, "1.2.1"), close(index, "1.2.2")
    assert [one.id for one in work.due(10)] == [first, second]
    assert [one.id for one in work.due(1)] == [first]

    work.mark_enqueued(first, 1)
    assert [one.id for one in work.due(10)] == [second]
    index.set_revision(first, "held", "because")
    assert index.release_revision(first, only_held=True)
    (again,) = [one for one in work.due(10) if one.id == first]
    assert (again.run, again.enqueued) == (2, 1)
    work.mark_enqueued(first, 2)
    work.mark_enqueued(first, 1)  # of one who was slow
    assert [one.id for one in work.due(10)] == [second]


def test_what_is_owed_is_told_by_revision_and_destination_and_given_up(
    index: Index, work: Work, tmp_path: Path
) -> None:
    instance = receive(a_store(tmp_path / "store"), index, "CT_small.dcm")
    revision = close(index, "1.2.3.4")
    index.set_revision(revision, "routed", priority=10)
    for name in ("a", "b"):
        index.plan_deliveries(revision, name, protect=True, instance_ids=[instance.id])
    owed = work.owed([revision, 99])
    assert [(one.destination, one.priority, one.run) for one in owed] == [
        ("a", 10, 1),
        ("b", 10, 1),
    ]

    (first, _) = index.deliveries_of(revision)
    index.record_delivery(first.id, "pending", None, "connection refused")
    assert work.give_up(revision, "a", "too long") == 1
    assert work.give_up(revision, "a", "too long") == 0
    assert [one.destination for one in work.owed([revision])] == ["b"]
    (first, _) = index.deliveries_of(revision)
    assert first.state == "held"
    assert first.last_error == "too long; last: connection refused"


def test_a_round_reads_only_what_is_due_among_many_that_are_done(
    index: Index, work: Work
) -> None:
    done = [
        {
            "study_instance_uid": "1.2",
            "series_instance_uid": f"1.2.{number}",
            "revision": 1,
            "calling_ae": "MODALITY",
            "closed_at": "",
            "state": "delivered",
            "enqueued": 1,
        }
        for number in range(DELIVERED)
    ]
    with index.database.write() as connection:
        connection.execute(insert(revisions), done)
    asked: list[str] = []
    event.listen(
        index.database.engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, values, *_: asked.append(
            (statement, values)  # type: ignore[arg-type]
        ),
    )
    assert work.due(200) == []
    assert work.page("complete", 0, 200) == work.page("routed", 7, 200) == []
    assert work.owed([1, 2, 3]) == []
    selects = [one for one in asked if one[0].startswith("SELECT")]
    assert len(selects) == 4
    with index.database.read() as connection:
        plans = [
            row[3]
            for statement, values in selects
            for row in connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {statement}", values
            )
        ]
    assert not [plan for plan in plans if plan.startswith("SCAN revisions")]
    assert not [plan for plan in plans if plan.startswith("SCAN deliveries")]
