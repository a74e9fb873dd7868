"""Data directories of earlier builds, real ones, brought to this program."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect

from config.errors import ConfigurationError
from config.schema import Site
from gateway.app.openers import open_index_of, open_keys_of, open_secrets_of
from gateway.app.places import Places
from gateway.app.process import sealed_store
from gateway.app.records import records_of
from gateway.audit.log import AuditLog
from gateway.stages.jobs_base import check_jobs
from gateway.store.database import Database
from gateway.store.index import Index
from gateway.store.upgrade import KEPT, backups_of, plan_of, upgrade
from gateway.store.upgrade import _run as run_steps

VECTORS = Path(__file__).parents[1] / "vectors"
REVISIONS = ("0001", "0002", "0003")
HEAD = "0006"


def unpacked(revision: str, folder: Path) -> Site:
    """The data directory that a build of a revision left when it was killed."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    with tarfile.open(VECTORS / f"site-{revision}.tar.xz") as packed:
        packed.extractall(data, filter="data")
    for path in (data / "secrets").iterdir():
        path.chmod(0o600)
    return Site(data_directory=data)


def told(revision: str) -> dict[str, dict[str, str]]:
    found: dict[str, Any] = json.loads((VECTORS / f"site-{revision}.json").read_text())
    return found


def index_key(site: Site) -> bytes:
    return open_secrets_of(site, open_keys_of(site)).get("index.key", 32)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_site_of_an_earlier_build_serves(revision: str, tmp_path: Path) -> None:
    site = unpacked(revision, tmp_path)
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys)) as index:
        assert (index.upgraded.current, index.upgraded.head) == (revision, HEAD)
        store = sealed_store(site, Places(site.data_directory), index, keys)
        records = records_of(site, store, keys)
        for study in told(revision).values():
            for uid, digest in study.items():
                instance = index.instance(uid)
                assert instance is not None
                part = index.protected_of(instance.id)
                assert part is not None
                octets = records.restore(instance, part)
                assert sha256(octets).hexdigest() == digest == instance.sha256
                assert records.verify(part) == part
                data_set, _ = store.read_data_set(instance.path)
                assert data_set == octets
        states = sorted(revision.state for revision in index.revisions())
        assert states == ["delivered", "routed"]
        assert len(index.deliveries_in_state("sent")) == 2
        assert len(index.deliveries_in_state("pending")) == 2
    AuditLog(Places(site.data_directory).audit).verify()
    with closing(open_index_of(site, keys)) as again:
        assert not again.upgraded.is_due


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_copy_is_the_index_as_it_was(revision: str, tmp_path: Path) -> None:
    site = unpacked(revision, tmp_path)
    path = site.data_directory / "index.sqlite"
    open_index_of(site, open_keys_of(site)).close()

    (copy,) = backups_of(path)

    assert copy.stat().st_mode & 0o077 == 0
    assert copy.name.startswith(f"index-{revision}-")
    database = Database(f"sqlite:///{copy}", index_key(site))
    with database.read() as connection:
        assert plan_of(connection).current == revision
        assert "tombstones" not in inspect(connection).get_table_names()
        rows = connection.exec_driver_sql("SELECT count(*) FROM instances").scalar()
        assert rows == 4
    database.close()
    assert b"Phantom" not in copy.read_bytes()


def test_a_step_that_fails_leaves_the_index_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = unpacked("0003", tmp_path)
    keys = open_keys_of(site)

    def fails(connection: Connection) -> None:
        run_steps(connection)
        connection.exec_driver_sql("DELETE FROM deliveries")
        connection.exec_driver_sql("INSERT INTO no_such_table VALUES (1)")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.store.upgrade._run", fails)
        with pytest.raises(ConfigurationError, match="nothing was changed") as caught:
            open_index_of(site, keys)
    assert "0003 to 0006" in str(caught.value)
    with closing(open_index_of(site, keys)) as index:
        assert index.upgraded.current == "0003"
        assert len(index.deliveries_in_state("sent")) == 2


def test_rows_that_would_refer_to_none_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = unpacked("0003", tmp_path)

    def loses(connection: Connection) -> None:
        run_steps(connection)
        connection.exec_driver_sql("DELETE FROM instances WHERE id = 1")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.store.upgrade._run", loses)
        with pytest.raises(ConfigurationError, match="nothing was changed"):
            open_index_of(site, open_keys_of(site))
    with closing(open_index_of(site, open_keys_of(site))) as index:
        assert index.instance_by_id(1) is not None


def test_an_index_of_a_newer_program_is_refused(tmp_path: Path) -> None:
    site = unpacked("0003", tmp_path)
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys)) as index, index.database.write() as at:
        at.exec_driver_sql("UPDATE alembic_version SET version_num = '0009'")
    before = (site.data_directory / "index.sqlite").read_bytes()

    with pytest.raises(ConfigurationError, match="a newer version") as caught:
        open_index_of(site, keys)

    assert "revision 0009" in str(caught.value)
    assert f"up to {HEAD}" in str(caught.value)
    assert "index-REVISION-TIME" in str(caught.value)
    assert (site.data_directory / "index.sqlite").read_bytes() == before


def test_without_room_for_a_copy_nothing_changes(tmp_path: Path) -> None:
    site = unpacked("0003", tmp_path)
    (site.data_directory / "backups").write_text("no directory")
    keys = open_keys_of(site)
    with pytest.raises(ConfigurationError, match="no copy of the index"):
        open_index_of(site, keys)
    (site.data_directory / "backups").unlink()
    with closing(open_index_of(site, keys)) as index:
        assert index.upgraded.current == "0003"


def return_it(moment: datetime) -> datetime:
    return moment


def test_only_the_newest_copies_stay(tmp_path: Path) -> None:
    site = unpacked("0003", tmp_path)
    key = index_key(site)
    path = site.data_directory / "index.sqlite"
    for day in range(1, KEPT + 3):
        moment = datetime(2026, 1, day, tzinfo=UTC)
        database = Database(f"sqlite:///{path}", key)
        upgrade(database, clock=partial(return_it, moment))
        with database.write() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num='0005'")
            connection.exec_driver_sql("DROP TABLE tombstones")
            connection.exec_driver_sql("ALTER TABLE instances DROP COLUMN gone_at")
            connection.exec_driver_sql("ALTER TABLE protected DROP COLUMN gone_at")
        database.close()
    names = [copy.name for copy in backups_of(path)]
    assert len(names) == KEPT
    assert names[-1] == f"index-0005-202601{KEPT + 2:02}T000000Z.sqlite"


def test_a_new_index_needs_no_copy(tmp_path: Path) -> None:
    index = Index(f"sqlite:///{tmp_path / 'index.sqlite'}", b"k" * 32)
    assert index.upgraded.current is None
    assert backups_of(tmp_path / "index.sqlite") == []
    index.close()


def test_ids_of_rows_that_went_never_come_again(tmp_path: Path) -> None:
    site = unpacked("0001", tmp_path)
    with closing(open_index_of(site, open_keys_of(site))) as index:
        with index.database.write() as connection:
            for table in ("deliveries", "protected", "instances", "revisions"):
                connection.exec_driver_sql(f"DELETE FROM {table}")
            connection.exec_driver_sql(
                "INSERT INTO revisions (study_instance_uid, series_instance_uid, "
                "revision, calling_ae, closed_at, state, reason) "
                "VALUES ('1', '1', 1, 'A', '', 'complete', '')"
            )
        assert [revision.id for revision in index.revisions()] == [3]


# The jobs' own database


def test_jobs_of_a_newer_library_are_refused(tmp_path: Path) -> None:
    site = unpacked("0003", tmp_path)
    path = site.data_directory / "jobs.sqlite"
    check_jobs(path)
    with closing(sqlite3.connect(path)) as jobs, jobs:
        jobs.execute("UPDATE dbos_migrations SET version = 9999")
    with pytest.raises(ConfigurationError, match="newer version") as caught:
        check_jobs(path)
    assert "9999" in str(caught.value)


def test_jobs_are_copied_before_they_are_brought_up(tmp_path: Path) -> None:
    site = unpacked("0003", tmp_path)
    path = site.data_directory / "jobs.sqlite"
    with closing(sqlite3.connect(path)) as jobs, jobs:
        jobs.execute("UPDATE dbos_migrations SET version = version - 1")
        (ids,) = jobs.execute("SELECT count(*) FROM workflow_status").fetchone()
    check_jobs(path)
    (copy,) = (site.data_directory / "backups").glob("jobs-*.sqlite")
    assert copy.stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(copy)) as jobs:
        assert jobs.execute("SELECT count(*) FROM workflow_status").fetchone() == (ids,)


def test_without_jobs_there_is_nothing_to_check(tmp_path: Path) -> None:
    check_jobs(tmp_path / "jobs.sqlite")
    assert list(tmp_path.iterdir()) == []
