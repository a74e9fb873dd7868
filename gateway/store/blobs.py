"""Where whole files are kept under a name: a directory, or an object store.

What has a name is whole, and stays when the machine ends. Only octets that are
sealed already come here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from typing_extensions import override

from gateway.errors import InvalidObject, InvalidSeal
from gateway.sealing.secretfile import overwrite
from gateway.sealing.slots import shred
from gateway.store.durable import (
    DIRECTORY_MODE,
    WholeFile,
    durably,
    make_directory,
    refused_when_full,
    sync_directory,
)
from gateway.store.filesystem import NamesDurable

if TYPE_CHECKING:
    from collections.abc import Iterator


NO_LINK: Final = frozenset(
    {errno.EEXIST, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}
)


class Blobs(ABC):
    """Files by relative name, ``/`` between its parts."""

    @property
    @abstractmethod
    def is_shared(self) -> bool:
        """Whether other machines keep theirs in the same place."""

    @abstractmethod
    def adopt(self, file: WholeFile, path: Path, name: str) -> None:
        """Give a file that lies on this machine a name; then it is durable.

        Parameters
        ----------
        file
            Open, everything written; it is closed, unless this raises.
        path
            Where it lies; it is gone afterwards.
        name
            What has that name already is replaced.

        Raises
        ------
        StoreFull, StoreUnavailable
            There is no room, or no answer: nothing has the name that had not.
        """

    @abstractmethod
    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Write a file that takes its name, durably, when the block is left well.

        Raises
        ------
        StoreFull, StoreUnavailable
            As for `adopt`.
        """

    @abstractmethod
    def move(self, name: str, other: str) -> None:
        """Give a file another name, durably; it may have it already.

        Raises
        ------
        OSError
            FileNotFoundError where there is neither.
        StoreFull, StoreUnavailable
            As for `adopt`.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Open for reading; it can seek, and reads what is asked for, no more.

        Raises
        ------
        OSError
            FileNotFoundError where there is none.
        StoreUnavailable
            There is no answer.
        """

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""

    @abstractmethod
    def destroy(self, name: str) -> None:
        """Destroy the data key of a sealed file, then remove it."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Return the octets of a file.

        Raises
        ------
        OSError
            FileNotFoundError where there is none.
        StoreUnavailable
            There is no answer.
        """

    @abstractmethod
    def names(self, prefix: str) -> Iterator[str]:
        """Yield the names of all files below a folder."""

    @abstractmethod
    def alone(self, name: str) -> AbstractContextManager[None]:
        """Keep others, wherever they are, from deciding on a file meanwhile."""

    @abstractmethod
    def check(self) -> None:
        """See that the place answers.

        Raises
        ------
        OSError, StoreUnavailable
            It does not.
        """


class LocalBlobs(Blobs):
    """Files below a directory of this machine.

    Parameters
    ----------
    root
        The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = NamesDurable()
        self._durable: set[Path] = set()  # directories whose own name is

    @property
    @override
    def is_shared(self) -> bool:
        return False

    def path_of(self, name: str) -> Path:
        """Return where a file lies.

        Raises
        ------
        InvalidObject
            The name leads out of the directory.
        """
        return self._root / checked(name)

    @override
    def adopt(self, file: WholeFile, path: Path, name: str) -> None:
        final = self.path_of(name)
        with refused_when_full():
            try:
                _link(path, final)
                file.sync()
                named = self._names.with_content(file.fileno())
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
                # A file of that name may be left from before a power cut, not
                # whole; and some file systems have no links.
                file.sync()
                path.replace(final)
                named = False
            if not named:
                self._keep_name(final)
        file.close()

    def _keep_name(self, path: Path) -> None:
        """Make a name durable: its directory, and the name of that, once."""
        sync_directory(path.parent)
        if path.parent not in self._durable:
            sync_directory(path.parent.parent)
            self._durable.add(path.parent)

    @override
    def move(self, name: str, other: str) -> None:
        before, after = self.path_of(name), self.path_of(other)
        with refused_when_full():
            make_directory(after.parent)
            try:
                before.replace(after)
            except FileNotFoundError:
                if not after.exists():  # another took it there
                    raise
            sync_directory(after.parent)
            sync_directory(before.parent)

    @override
    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        with durably(self.path_of(name)) as stream:
            yield cast("BinaryIO", stream)

    @override
    def open(self, name: str) -> BinaryIO:
        return cast("BinaryIO", self.path_of(name).open("rb", buffering=0))

    @override
    def exists(self, name: str) -> bool:
        return self.path_of(name).is_file()

    @override
    def remove(self, name: str) -> None:
        self.path_of(name).unlink(missing_ok=True)

    @override
    def destroy(self, name: str) -> None:
        path = self.path_of(name)
        try:
            shred(path)
        except FileNotFoundError:
            return
        except InvalidSeal:
            overwrite(path)  # in clear, of an earlier release, or damaged
        path.unlink(missing_ok=True)
        sync_directory(path.parent)

    @override
    def size(self, name: str) -> int:
        return self.path_of(name).stat().st_size

    @override
    def names(self, prefix: str) -> Iterator[str]:
        for folder, _, files in os.walk(self.path_of(prefix)):
            for file in files:
                yield (Path(folder) / file).relative_to(self._root).as_posix()

    @override
    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        # That of `gateway.store.deposit`: of all files, and held for a moment.
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @override
    def check(self) -> None:
        with contextlib.closing(os.scandir(self._root)) as entries:
            next(entries, None)


def _link(path: Path, final: Path) -> None:
    """Give a file a second name, in a directory that is made when absent.

    Before it is synced: the names then come with the content in one
    transaction of the file system. A name that is there is left alone.
    """
    try:
        os.link(path, final)
    except FileNotFoundError:
        make_directory(final.parent.parent)
        final.parent.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        os.link(path, final)


def checked(name: str) -> str:
    """Return a name that leads nowhere else.

    Raises
    ------
    InvalidObject
        It leads out of the place.
    """
    if name.startswith("/") or ".." in name.split("/"):
        raise InvalidObject("A path of the index leads out of the store")
    return name
