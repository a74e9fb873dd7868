"""The index in an encrypted SQLite file (SQLCipher): AES-256, authenticated pages.

The write-ahead log and journals are encrypted with the same key; temporary
tables stay in memory. A clear index of an earlier build is converted once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlcipher3 import dbapi2

from gateway.errors import ConfigurationError
from gateway.log import get_logger
from gateway.store.durable import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_BYTES: Final = 32
CLEAR: Final = b"SQLite format 3\0"
BUSY_SECONDS: Final = 60.0


def connector(path: Path, key: bytes) -> Callable[[], dbapi2.Connection]:
    """Make what opens connections; the key is in no URL and no statement shown.

    Parameters
    ----------
    path
        The database, made when absent.
    key
        32 octets, used as they are.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key of the index has {KEY_BYTES} octets")

    def connect() -> dbapi2.Connection:
        return _connect(path, key)

    return connect


def _connect(path: Path, key: bytes) -> dbapi2.Connection:
    connection = dbapi2.connect(
        str(path), timeout=BUSY_SECONDS, check_same_thread=False
    )
    try:
        # The first statement: nothing is read before it.
        connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"").close()
        # Not cipher_memory_security, which wipes memory at every release: queries
        # took up to eight times as long, and no process leaves a core dump.
        connection.execute("PRAGMA temp_store = MEMORY").close()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except dbapi2.OperationalError:
        connection.close()
        raise
    except dbapi2.DatabaseError:
        connection.close()
        raise ConfigurationError(
            f"index {path} does not open: it belongs to another key, or is damaged; "
            "put back the secrets directory and the master key it was made with, "
            "or the index from a backup"
        ) from None  # whatever it says, the key stays out of it
    return connection


def seal_clear_index(path: Path, key: bytes) -> bool:
    """Encrypt the clear index of an earlier build, atomically; True where done.

    The encrypted copy is checked before it takes the name. No process of the
    earlier build may have the index open.

    Raises
    ------
    ConfigurationError
        It is in use, or the copy is not whole; then nothing has changed.
    """
    if not _is_clear(path):
        return False
    with _alone(path):
        if not _is_clear(path):
            return False  # another process was faster
        draft = path.with_name(f".{path.name}.sealing")
        draft.unlink(missing_ok=True)
        try:
            _export(path, draft, key)
            _check(draft, key)
            draft.replace(path)
        except dbapi2.Error as error:
            raise ConfigurationError(
                f"index {path} cannot be encrypted ({type(error).__name__}): stop "
                "every gateway that uses it and see that there is as much free disk "
                "as it takes"
            ) from None
        finally:
            draft.unlink(missing_ok=True)
        for ending in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + ending).unlink(missing_ok=True)
        sync_directory(path.parent)
    get_logger("index").info("index-encrypted", path=path.name)
    return True


def _is_clear(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(CLEAR)) == CLEAR
    except FileNotFoundError:
        return False


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes that start from converting the same file."""
    with path.with_name(f".{path.name}.lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _export(path: Path, draft: Path, key: bytes) -> None:
    with closing(dbapi2.connect(str(path), timeout=5.0)) as clear:
        clear.isolation_level = None
        # Brings the write-ahead log in, and fails where others have it open.
        (mode,) = clear.execute("PRAGMA journal_mode = DELETE").fetchone()
        if mode != "delete":
            raise dbapi2.OperationalError("others have it open")
        clear.execute("PRAGMA locking_mode = EXCLUSIVE").fetchone()
        raw_key = f"x'{key.hex()}'"
        clear.execute("ATTACH DATABASE ? AS sealed KEY ?", (str(draft), raw_key))
        clear.execute("SELECT sqlcipher_export('sealed')").fetchone()
        clear.execute("DETACH DATABASE sealed")
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(draft: Path, key: bytes) -> None:
    with closing(_connect(draft, key)) as sealed:
        damage = sealed.execute("PRAGMA cipher_integrity_check").fetchall()
        (answer,) = sealed.execute("PRAGMA integrity_check").fetchone()
        if damage or answer != "ok":
            raise dbapi2.DatabaseError("the copy is not whole")
