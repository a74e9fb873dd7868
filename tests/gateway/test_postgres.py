"""What only PostgreSQL has: writers side by side, restarts, a server's text."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import insert, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from config.schema import Database as Settings
from gateway.access.ledger import Books
from gateway.errors import ConfigurationError
from gateway.store.index import Index
from gateway.store.locks import Locks
from gateway.store.schema import instances
from gateway.store.server import Server, server_of
from tests.gateway.postgres import Cluster
from tests.gateway.test_index import NOON, new, protected_of

PATIENT = 20.0


@pytest.fixture
def server(postgres_url: str) -> Server:
    return Server(url=make_url(postgres_url), patience_seconds=PATIENT)


@pytest.fixture
def machines(server: Server) -> Iterator[list[Index]]:
    """The index as four machines have it open, each with its own connections."""
    opened = [Index(server) for _ in range(4)]
    yield opened
    for index in opened:
        index.close()


def at_once(machines: list[Index], work: Callable[[Index], Any]) -> list[Any]:
    """What comes of the same done on all machines at the same moment."""
    together = threading.Barrier(len(machines))

    def one(index: Index) -> Any:
        together.wait(30)
        return work(index)

    with ThreadPoolExecutor(len(machines)) as pool:
        return list(pool.map(one, machines))


@pytest.mark.parametrize("_round", range(5))
def test_a_series_is_closed_once(machines: list[Index], _round: int) -> None:
    for number in range(3):
        machines[0].add_instance(new(number))

    closed = at_once(machines, lambda i: i.close_series("1.6", "MODALITY", NOON))

    (revision,) = [one for one in closed if one is not None]
    assert revision.revision == 1
    assert len(machines[1].instances_of_revision(revision.id)) == 3


def test_revisions_of_a_series_are_counted_without_gaps(machines: list[Index]) -> None:
    def come_and_close(index: Index) -> None:
        for turn in range(6):
            number = 100 * machines.index(index) + turn
            index.add_instance(new(number))
            index.close_series("1.6", "MODALITY", NOON)

    at_once(machines, come_and_close)

    numbers = [one.revision for one in machines[0].revisions()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert machines[0].open_series() == []


def test_what_was_made_of_an_object_is_recorded_once(machines: list[Index]) -> None:
    machines[0].add_instance(new())

    at_once(machines, lambda i: i.add_protected(protected_of(1)))

    assert len(machines[0].protected_parts(1, "")) == 1


def test_deliveries_are_planned_once(machines: list[Index]) -> None:
    for number in range(5):
        machines[0].add_instance(new(number))
    revision = machines[0].close_series("1.6", "MODALITY", NOON)
    assert revision is not None
    ids = [one.id for one in machines[0].instances_of_revision(revision.id)]

    at_once(machines, lambda i: i.plan_deliveries(revision.id, "out", True, ids))

    assert len(machines[0].deliveries_of(revision.id)) == 5


def test_one_of_many_that_send_one_object_stores_it(machines: list[Index]) -> None:
    outcomes = at_once(machines, lambda i: i.add_instance(new()))
    assert sorted(outcomes) == ["duplicate"] * 3 + ["stored"]


def test_rows_of_the_ledger_are_added_in_turn(
    machines: list[Index], tmp_path: Path
) -> None:
    anchor = tmp_path / "anchor"
    books = {id(i): Books(i.database, b"k" * 32, anchor) for i in machines}

    def add(index: Index) -> None:
        for number in range(5):
            with books[id(index)].changing() as change:
                change.append("grants", "add", f"{number}", {}, "now")

    at_once(machines, add)

    with books[id(machines[0])].reading() as view:
        assert [e.number for e in view.entries("grants")] == list(range(1, 21))


def test_books_are_begun_by_many_machines_at_once(
    machines: list[Index], tmp_path: Path
) -> None:
    def begin_and_add(index: Index) -> None:
        books = Books(index.database, b"k" * 32, tmp_path / "anchor")
        with books.changing() as change:
            change.append("grants", "add", "x", {}, "now")

    at_once(machines, begin_and_add)


def test_a_reader_sees_one_moment(machines: list[Index]) -> None:
    count = text("SELECT count(*) FROM instances")
    with machines[0].database.read() as connection:
        assert connection.scalar(count) == 0
        machines[1].add_instance(new())
        assert connection.scalar(count) == 0
    with machines[0].database.read() as connection:
        assert connection.scalar(count) == 1


def test_a_reader_cannot_write(machines: list[Index]) -> None:
    statement = insert(instances).values(**vars(new()))
    with (
        machines[0].database.read() as connection,
        pytest.raises(Exception, match="read-only transaction"),
    ):
        connection.execute(statement)


def test_locks_hold_between_machines(server: Server) -> None:
    inside: list[int] = []
    most: list[int] = []

    def hold(number: int) -> None:
        with Locks(server)("a name"):
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(hold, range(12)))
    assert max(most) == 1


def test_a_lock_is_free_once_its_machine_is_gone(
    server: Server, postgres_url: str
) -> None:
    def cut_all() -> None:
        url = postgres_url.replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

    with pytest.raises(OperationalError), Locks(server)("a name"):
        cut_all()
    with Locks(server)("a name"):
        pass


def test_a_restarted_server_is_waited_for(own: Cluster) -> None:
    server = Server(url=make_url(own.database()), patience_seconds=PATIENT)
    index = Index(server)
    index.add_instance(new(1))
    own.stop()
    starting = threading.Timer(0.5, own.start)
    starting.start()
    try:
        assert index.add_instance(new(2)) == "stored"
    finally:
        starting.join()
    assert len(index.instances_in_state("received")) == 2
    index.close()


def test_a_server_that_stays_away_is_an_error_in_time(own: Cluster) -> None:
    server = Server(url=make_url(own.database()), patience_seconds=0.5)
    index = Index(server)
    own.stop()
    try:
        with pytest.raises(OperationalError):
            index.add_instance(new())
    finally:
        own.start()
        index.close()


def test_a_server_that_refuses_is_not_waited_for(server: Server) -> None:
    nobody = replace(server, url=server.url.set(database="nobody"))
    with pytest.raises(OperationalError, match="does not exist"):
        Index(replace(nobody, patience_seconds=3600))


def test_a_database_that_sorts_by_a_language_is_refused(
    postgres_cluster: Cluster,
) -> None:
    made = (
        "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'"
        " LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"
    )
    url = make_url(postgres_cluster.database())
    with psycopg.connect(
        host=str(url.query["host"]), user="postgres", autocommit=True
    ) as connection:
        connection.execute(sql.SQL(made).format(sql.Identifier("by_language")))
    with pytest.raises(ConfigurationError, match="LC_COLLATE 'C'"):
        Index(Server(url=url.set(database="by_language")))


@pytest.fixture
def own() -> Iterator[Cluster]:
    """A cluster that a test may stop."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        cluster = Cluster(Path(name))
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()


# Settings


def server_for(url: str, **settings: Any) -> Server:
    return server_of(Settings(url=url, **settings), lambda _source: b"pass:w@rd/")


def test_a_server_elsewhere_must_show_its_certificate() -> None:
    elsewhere = server_for("postgresql://miad@db.example.org/miad").url.query
    assert (elsewhere["sslmode"], elsewhere["sslrootcert"]) == ("verify-full", "system")

    own = server_for(
        "postgresql://miad@db.example.org/miad", authorities=Path("/etc/ca.pem")
    )
    assert own.url.query["sslrootcert"] == "/etc/ca.pem"

    for url, settings in (
        ("postgresql://miad@127.0.0.1/miad", {}),
        ("postgresql://miad@/miad?host=/run/postgresql", {}),
        ("postgresql://miad@db.example.org/miad", {"plain": True}),
    ):
        assert "sslmode" not in server_for(url, **settings).url.query


def test_a_password_is_used_and_not_shown() -> None:
    server = server_for("postgresql://miad@db/miad", password="env:DATABASE_PASSWORD")
    assert server.url.password == "pass:w@rd/"
    assert "w@rd" not in f"{server!r} {server.url}"
