"""The index brought to this program's revision: forward only, with a way back.

Before anything changes an SQLite file is copied, encrypted as it is, into
``backups`` beside it. All steps are one transaction: where one fails, the file is
as it was. A PostgreSQL index is upgraded only when a person says that there is a
backup, since only the database's own tools can make one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlcipher3 import dbapi2

from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.store.clock import utc_now
from gateway.store.durable import FILE_MODE, make_directory, sync_directory

if TYPE_CHECKING:
    from gateway.store.database import Database

SCRIPTS: Final = "gateway.store:migrations"
BACKUPS: Final = "backups"
KEPT: Final = 3
"""Copies of earlier revisions that stay; the oldest go."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """From which revision to which; ``current`` is None where nothing is yet."""

    current: str | None
    head: str

    @property
    def is_due(self) -> bool:
        """Whether there is anything to do."""
        return self.current != self.head


def plan_of(connection: Connection) -> Plan:
    """Say what an index needs.

    Raises
    ------
    ConfigurationError
        A newer program has written it.
    """
    scripts = ScriptDirectory.from_config(_config())
    head = scripts.get_current_head()
    assert head is not None
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise ConfigurationError(
            f"the index is at revision {current}, and miad-gateway "
            f"{version('miad-gateway')} knows revisions up to {head}: a newer version "
            "has written it. Start that version; or stop everything and put back "
            f"the copy made before its upgrade ({BACKUPS}/index-REVISION-TIME.sqlite; "
            "see Going back in docs/operations.md)"
        )
    return Plan(current=current, head=head)


def upgrade(
    database: Database,
    *,
    backed_up: bool = False,
    clock: Callable[[], datetime] = utc_now,
) -> Plan:
    """Bring an index to the newest revision; safe to run at every start.

    Parameters
    ----------
    database
        Its connections.
    backed_up
        A person says that there is a backup; PostgreSQL only.
    clock
        Names the copy of an SQLite file.

    Returns
    -------
    Plan
        What was done.

    Raises
    ------
    ConfigurationError
        It is of a newer program; there is no backup, or no room for one; or a
        step failed. Nothing has changed then.
    """
    with database.read() as connection:
        plan = plan_of(connection)
    if not plan.is_due:
        return plan
    engine = database.engine
    if engine.dialect.name == "sqlite":
        return _upgrade_file(engine, clock)
    with database.write() as connection:
        database.in_turn(connection, "migrations")  # of machines that start at once
        plan = plan_of(connection)
        if plan.is_due and plan.current is not None and not backed_up:
            raise ConfigurationError(
                f"the index has to be brought from revision {plan.current} to "
                f"{plan.head}: stop every process, make a backup with pg_dump, and "
                "give the command miad-gateway upgrade --backed-up"
            )
        if plan.is_due:
            _run(connection)
    return plan


def backups_of(index: Path) -> list[Path]:
    """Return the copies that upgrades made of an index file, oldest first."""
    return sorted((index.parent / BACKUPS).glob(f"{index.stem}-*{index.suffix}"))


def _upgrade_file(engine: Engine, clock: Callable[[], datetime]) -> Plan:
    path = Path(engine.url.database or "")
    with alone_with(path):  # whoever starts first; the others find it done
        with engine.connect() as connection:
            plan = plan_of(connection)
        if not plan.is_due:
            return plan
        copy = None
        if plan.current is not None:
            copy = _copy(engine, path, f"{plan.current}-{clock():%Y%m%dT%H%M%SZ}")
        _migrate_file(engine, plan, copy)
        for old in backups_of(path)[:-KEPT]:
            old.unlink()
    if plan.current is not None:
        get_logger("index").info(
            "index-upgraded",
            before=plan.current,
            after=plan.head,
            backup=copy.name if copy else "",
        )
    return plan


def _migrate_file(engine: Engine, plan: Plan, copy: Path | None) -> None:
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        # Tables that others refer to are made anew; no effect within a transaction.
        raw.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                _run(connection)
                _check_references(connection)
        except Exception as error:
            raise ConfigurationError(
                f"the index cannot be brought from revision {plan.current} to "
                f"{plan.head} ({type(error).__name__}); nothing was changed. Start the "
                f"version before, which opens it as it is; copy: {copy or 'none'}"
            ) from error
        finally:
            raw.execute("PRAGMA foreign_keys = ON")


def _check_references(connection: Connection) -> None:
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    if broken:
        raise ConfigurationError(f"{len(broken)} rows refer to none")


def _run(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    return config


def _copy(engine: Engine, path: Path, mark: str) -> Path:
    """Copy an index under its own key; whole and durable on return."""
    folder = path.parent / BACKUPS
    final = folder / f"{path.stem}-{mark}{path.suffix}"
    draft = folder / f".{final.name}.draft"
    try:
        make_directory(folder)
        draft.unlink(missing_ok=True)
        # Made here, so that it is never readable for others; VACUUM takes it empty.
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE_MODE))
        with _raw(engine) as raw:
            raw.execute("VACUUM INTO ?", (str(draft),))
            _check_copy(raw, draft)
        _sync(draft)
        draft.replace(final)
        sync_directory(folder)
    except (OSError, DBAPIError, dbapi2.Error) as error:
        raise ConfigurationError(
            f"no copy of the index can be made in {folder} ({error}); an upgrade "
            "needs as much free disk as the index takes. Nothing was changed"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return final


def _check_copy(raw: dbapi2.Connection, draft: Path) -> None:
    raw.execute("ATTACH DATABASE ? AS copied", (str(draft),))  # under the same key
    try:
        (answer,) = raw.execute("PRAGMA copied.integrity_check").fetchone()
        own = raw.execute("SELECT count(*) FROM main.sqlite_master").fetchone()
        copied = raw.execute("SELECT count(*) FROM copied.sqlite_master").fetchone()
    finally:
        raw.execute("DETACH DATABASE copied")
    if answer != "ok" or own != copied:
        raise dbapi2.DatabaseError("the copy is not whole")


@contextmanager
def _raw(engine: Engine) -> Iterator[dbapi2.Connection]:
    """Lend a connection outside of any transaction."""
    pooled = engine.raw_connection()
    try:
        raw = pooled.driver_connection
        assert isinstance(raw, dbapi2.Connection)
        yield raw
    finally:
        pooled.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from upgrading a file meanwhile."""
    with path.with_name(f".{path.name}.lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
