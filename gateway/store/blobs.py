"""Where whole files are kept under a name: a directory, or an object store.

What has a name is whole, and stays when the machine ends. Only octets that are
sealed already come here.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from typing_extensions import override

from gateway.errors import InvalidObject, InvalidSeal
from gateway.sealing.secretfile import overwrite
from gateway.sealing.slots import shred
from gateway.store.durable import (
    WholeFile,
    durably,
    make_directory,
    refused_when_full,
    sync_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        file.sync()
        with refused_when_full():
            make_directory(final.parent)
            path.replace(final)
            sync_directory(final.parent)
        file.close()

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
    def check(self) -> None:
        with contextlib.closing(os.scandir(self._root)) as entries:
            next(entries, None)


def checked(name: str) -> str:
    """Return a name that leads nowhere else.

    Raises
    ------
    InvalidObject
        It leads out of the place.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidObject("A path of the index leads out of the store")
    return name
