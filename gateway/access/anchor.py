"""How far the tables of grants had come, in a file outside the database."""

from __future__ import annotations

import fcntl
import hmac
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from gateway.errors import AccessTampered
from gateway.sealing.secretfile import sync_folder, write_durably

if TYPE_CHECKING:
    from gateway.store.objects import ObjectBlobs

Marks = dict[str, tuple[int, str]]
"""Table -> number of rows and HMAC of the last; the clock's epoch and time."""

LONGEST: Final = 4096  # octets; a few lines of JSON


SHARED_NAME: Final = "access/anchor.json"


class Anchor:
    """A file that only goes forward.

    Parameters
    ----------
    path
        Its folder is made with mode 0700.
    mac
        Authenticates what stands in it.
    """

    def __init__(self, path: Path, mac: Callable[[Any], str]) -> None:
        self._path = path
        self._mac = mac

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self._path)

    def read(self) -> Marks | None:
        """Return what stands in it; None where there is no file.

        Raises
        ------
        AccessTampered
            It was altered.
        """
        try:
            found = json.loads(self._octets())
            marks = {name: (mark[0], mark[1]) for name, mark in found["marks"].items()}
            whole = hmac.compare_digest(self._mac(found["marks"]), found["mac"])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise AccessTampered(f"{self.name} cannot be read as it is") from error
        if not whole:
            raise AccessTampered(
                f"{self.name} was altered, or belongs to another key; put the"
                " right file and secrets back"
            )
        return marks

    def advance(self, reached: Mapping[str, tuple[int, str]]) -> None:
        """Note how far tables have come; what is further already stays."""
        with self._alone():
            marks = self.read() or {}
            for name, mark in reached.items():
                marks[name] = max(marks.get(name, mark), mark)
            self._write(marks)

    def replace(self, marks: Marks) -> None:
        """Note how far tables are, further back, too."""
        with self._alone():
            self._write(marks)

    def _write(self, marks: Marks) -> None:
        plain = {name: list(mark) for name, mark in marks.items()}
        text = json.dumps({"marks": plain, "mac": self._mac(plain)})
        self._put(text.encode())

    def _octets(self) -> bytes:
        with self._path.open("rb") as stream:
            return stream.read(LONGEST)

    def _put(self, octets: bytes) -> None:
        draft = self._path.with_name(f".{self._path.name}.draft")
        draft.unlink(missing_ok=True)
        write_durably(draft, octets)
        draft.replace(self._path)
        sync_folder(self._path.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class SharedAnchor(Anchor):
    """An object that only goes forward, for all machines of a site.

    Parameters
    ----------
    blobs
        Where it lies.
    mac
        Authenticates what stands in it.
    """

    def __init__(self, blobs: ObjectBlobs, mac: Callable[[Any], str]) -> None:
        super().__init__(Path(SHARED_NAME), mac)
        self._blobs = blobs

    @override
    def _octets(self) -> bytes:
        return self._blobs.read(SHARED_NAME)[:LONGEST]

    @override
    def _put(self, octets: bytes) -> None:
        self._blobs.put(SHARED_NAME, octets)

    @override
    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._blobs.locked(SHARED_NAME):
            yield
