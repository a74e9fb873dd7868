"""Whoever writes the database without the key changes nothing unseen."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select, update

from gateway.access.access import Access
from gateway.access.ledger import Books
from gateway.errors import AccessTampered
from gateway.store.schema import grants, trusted_clock
from tests.gateway.access_cases import House, add, static

pytestmark = pytest.mark.usefixtures("houses")


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Three rows: a grant, another, and the first revoked."""
    made = House(tmp_path)
    with made.opened() as access:
        add(access, "first")
        add(access, "second", when='PatientID == "P1"')
        access.revoke_grant("first", "tester", "mistake")
    return made


def states(house: House) -> dict[str, str]:
    with house.opened() as access:
        found, now = access.grants()
    return {held.grant.name: held.state(now) for held in found}


def change(house: House, work: Callable[[Connection], object]) -> None:
    """Write the database as somebody who lacks the grants' key can."""
    index = house.index()
    with index.database.write() as connection:
        work(connection)
    index.close()


def row(connection: Connection, number: int) -> dict[str, object]:
    found = connection.execute(select(grants).where(grants.c.number == number))
    return dict(found.mappings().one())


def test_grants_and_revocations_outlive_a_restart(house: House) -> None:
    assert states(house) == {"first": "revoked", "second": "active"}


def test_a_change_is_seen_by_a_process_that_runs(house: House) -> None:
    with house.opened() as running, house.opened() as command:
        assert len(running.grants()[0]) == 2
        add(command, "third")
        command.revoke_grant("second", "tester", "over")
        found, now = running.grants()
    assert [held.state(now) for held in found] == ["revoked", "revoked", "active"]


def widen(connection: Connection) -> None:
    body = json.loads(str(row(connection, 2)["body"]))
    body["grant"]["when"] = "true"
    connection.execute(
        update(grants)
        .where(grants.c.number == 2)
        .values(body=json.dumps(body, sort_keys=True, separators=(",", ":")))
    )


def copy_in(connection: Connection) -> None:
    added = row(connection, 1) | {"number": 4}
    connection.execute(insert(grants).values(**added))


def swap(connection: Connection) -> None:
    first, second = row(connection, 1), row(connection, 2)
    connection.execute(delete(grants).where(grants.c.number < 3))
    for number, values in ((1, second), (2, first)):
        connection.execute(insert(grants).values(**values | {"number": number}))


def drop(*numbers: int) -> Callable[[Connection], object]:
    return lambda connection: connection.execute(
        delete(grants).where(grants.c.number.in_(numbers))
    )


@pytest.mark.parametrize(
    "work",
    [widen, copy_in, swap, drop(3), drop(1), drop(2, 3), drop(1, 2, 3)],
    ids=[
        "widened",
        "copied",
        "swapped",
        "revocation-deleted",
        "first-deleted",
        "end-deleted",
        "all-deleted",
    ],
)
def test_what_is_written_without_the_key_grants_nothing(
    house: House, work: Callable[[Connection], object]
) -> None:
    change(house, work)
    with pytest.raises(AccessTampered, match="table grants"):
        states(house)


@pytest.mark.parametrize(
    "work",
    [copy_in, drop(3), drop(2, 3), drop(1, 2, 3)],
    ids=["copied", "revocation-deleted", "end-deleted", "all-deleted"],
)
def test_a_process_that_runs_notices_it_too(
    house: House, work: Callable[[Connection], object]
) -> None:
    with house.opened() as running:
        assert len(running.holding(lambda _held: True)) == 1
        change(house, work)
        with pytest.raises(AccessTampered, match="table grants"):
            running.holding(lambda _held: True)


@pytest.mark.parametrize(
    "work", [widen, swap, drop(1)], ids=["widened", "swapped", "first-deleted"]
)
def test_a_process_that_runs_goes_by_the_rows_it_has_verified(
    house: House, work: Callable[[Connection], object]
) -> None:
    with house.opened() as running:
        before = running.holding(lambda _held: True)
        change(house, work)
        assert running.holding(lambda _held: True) == before
        assert [h.grant.when for h in before] == ['PatientID == "P1"']


def test_a_row_of_another_key_is_refused(house: House) -> None:
    index = house.index()
    other = Books(
        index.database, b"x" * 32, house.root / "other" / "anchor", check=False
    )
    with pytest.raises(AccessTampered), other.changing() as forged:
        forged.append("grants", "revoke", "second", {}, "now")
    index.close()
    assert states(house)["second"] == "active"


def test_another_key_opens_nothing(house: House) -> None:
    with (
        pytest.raises(AccessTampered, match="another key"),
        house.books(b"x" * 32) as books,
        books.reading() as view,
    ):
        view.entries("grants")


@pytest.mark.parametrize("houses", ["sqlite"], indirect=True)
def test_the_whole_database_put_back_is_noticed(house: House) -> None:
    backup = house.root / "backup"
    shutil.copy(house.database, backup)
    with house.opened() as access:
        access.revoke_grant("second", "tester", "over")
    for beside in house.root.glob("index.sqlite*"):
        beside.unlink()
    shutil.copy(backup, house.database)
    with pytest.raises(AccessTampered, match="gone"):
        states(house)


def test_a_static_grant_stays_revoked_without_its_row(tmp_path: Path) -> None:
    house = House(tmp_path, {"grants": [static()]})
    with house.opened() as access:
        access.revoke_grant("all", "tester", "over")
    assert states(house) == {"all": "revoked"}
    change(house, drop(1))
    with pytest.raises(AccessTampered):
        states(house)


@pytest.mark.parametrize("how", ["deleted", "altered", "emptied"])
def test_an_anchor_is_not_done_without(house: House, how: str) -> None:
    if how == "deleted":
        house.anchor.unlink()
    else:
        marks = json.loads(house.anchor.read_text())
        marks["marks"]["grants"] = [0, "0" * 64]
        house.anchor.write_text(json.dumps(marks) if how == "altered" else "")
    with pytest.raises(AccessTampered):
        states(house)


def test_the_clock_row_is_authenticated_too(house: House) -> None:
    change(
        house,
        lambda c: c.execute(update(trusted_clock).values(latest="2020-01-01")),
    )
    with pytest.raises(AccessTampered, match="trusted_clock"):
        states(house)


def test_the_clock_row_is_missed(house: House) -> None:
    change(house, lambda c: c.execute(delete(trusted_clock)))
    with pytest.raises(AccessTampered, match="put back"):
        states(house)


def test_a_restored_database_is_accepted_by_a_person(house: House) -> None:
    change(house, drop(3))
    index = house.index()
    books = Books(index.database, b"g" * 32, house.anchor, check=False)
    assert books.accept()["grants"] == 2
    index.close()
    assert states(house) == {"first": "active", "second": "active"}


def test_an_altered_row_is_accepted_by_nobody(house: House) -> None:
    change(house, widen)
    index = house.index()
    books = Books(index.database, b"g" * 32, house.anchor, check=False)
    with pytest.raises(AccessTampered, match="row 2"):
        books.accept()
    index.close()


def test_nothing_is_kept_of_a_change_that_failed(house: House) -> None:
    with house.books() as books:

        def fail() -> None:
            with books.changing() as change_:
                change_.append("grants", "revoke", "second", {}, "now")
                raise OSError("disk")

        with pytest.raises(OSError, match="disk"):
            fail()
        with books.reading() as view:
            assert len(view.entries("grants")) == 3
    assert states(house)["second"] == "active"


def test_a_key_has_32_octets(house: House) -> None:
    with pytest.raises(ValueError, match="32"), house.books(b"short"):
        pass


def test_threads_and_processes_do_not_take_each_other_for_intruders(
    house: House,
) -> None:
    stop = threading.Event()
    seen: list[int] = []

    def look(access: Access) -> None:
        while not stop.is_set():
            seen.append(len(access.grants()[0]))
            access.requests()

    with (
        house.opened() as running,
        house.opened() as command,
        ThreadPoolExecutor() as pool,
    ):
        watching = [pool.submit(look, running) for _ in range(4)]
        for number in range(20):
            add(command, f"more-{number}")
        stop.set()
        for watch in watching:
            watch.result()
        assert len(running.grants()[0]) == 22
    assert set(seen) <= set(range(2, 23))
