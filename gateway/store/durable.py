"""Files that appear whole and fsynced under their name, or not at all."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from typing_extensions import override

from gateway.errors import StoreFull

if TYPE_CHECKING:
    from typing_extensions import Buffer

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700


class WholeFile(io.FileIO):
    """A new file of mode 0600 that takes every octet or raises ``StoreFull``."""

    def __init__(self, path: Path) -> None:
        with refused_when_full():
            super().__init__(path, "x+b", opener=_private)

    @override
    def write(self, piece: Buffer, /) -> int:
        """Write all of it.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        view = memoryview(piece).cast("B")
        size = len(view)
        with refused_when_full():
            while view:
                view = view[super().write(view) :]
        return size

    def sync(self) -> None:
        """Wait until the disk has it."""
        with refused_when_full():
            os.fsync(self.fileno())


class ClaimedFile(WholeFile):
    """A new file that others see is being written: it holds a lock on it."""

    def __init__(self, path: Path) -> None:
        while True:
            super().__init__(path)
            fcntl.flock(self.fileno(), fcntl.LOCK_EX)
            if os.fstat(self.fileno()).st_nlink:
                break
            self.close()  # taken for a leftover before it was locked


def remove_unclaimed(path: Path) -> bool:
    """Remove a file that nobody is writing any more; True where that was so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, FILE_MODE)


@contextmanager
def durably(path: Path) -> Iterator[WholeFile]:
    """Write a file that takes its name, durably, when the block is left well.

    Raises
    ------
    StoreFull
        The disk has no room; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with refused_when_full():
            make_directory(path.parent)
        with WholeFile(temporary) as stream:
            yield stream
            stream.sync()
        with refused_when_full():
            temporary.replace(path)
            sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that its name shows the old or the new content, whole.

    Raises
    ------
    StoreFull
        The disk has no room; nothing is left behind.
    """
    with durably(path) as stream:
        stream.write(content)


def make_directory(path: Path) -> None:
    """Make a directory of mode 0700, and its entry in its parent durable."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def refused_when_full() -> Iterator[None]:
    """Turn "no room" errors of the operating system into ``StoreFull``."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StoreFull(
                "The store has no room: free disk space or enlarge the quota"
            ) from error
        raise
