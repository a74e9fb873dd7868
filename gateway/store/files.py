"""Durable files: every name appears whole and fsynced, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from gateway.errors import InvalidObject, StoredObjectDamaged, StoreFull
from gateway.store.part10 import FileMeta, check_uid, encode_head, read_head

ORIGINALS = "originals"
CONFLICTS = "conflicts"
PROTECTED = "protected"
INCOMING = "incoming"

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file of the store.

    Attributes
    ----------
    path
        Relative to the store's root.
    sha256
        Of the data set bytes only for received objects, of the whole file for
        protected ones.
    size_bytes
        Of the data set, or of the whole file, likewise.
    """

    path: str
    sha256: str
    size_bytes: int


class FileStore:
    """The directory of received and protected objects.

    Parameters
    ----------
    root
        Made with its sub-directories when absent.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        for name in (ORIGINALS, CONFLICTS, PROTECTED, INCOMING):
            make_directory(root / name)

    @property
    def root(self) -> Path:
        """The directory that all relative paths start from."""
        return self._root

    def begin_original(self, meta: FileMeta) -> OriginalWriter:
        """Start to write a received object whose data set comes in pieces.

        Raises
        ------
        StoreFull, InvalidObject
            No room; a UID that is none.
        """
        return OriginalWriter(self, meta)

    def write_original(
        self, data_set: bytes | memoryview, meta: FileMeta
    ) -> StoredFile:
        """Store a received data set under its digest, durably.

        Raises
        ------
        StoreFull
            The disk has no room; nothing is left behind.
        InvalidObject
            A UID in ``meta`` is not a UID.
        """
        with self.begin_original(meta) as writer:
            writer.write(data_set)
            return writer.commit()

    def write_protected(self, uid: str, part10: bytes) -> StoredFile:
        """Store a protected object under its UID, durably; may be repeated.

        Raises
        ------
        StoreFull, InvalidObject
            No room; ``uid`` is not a UID.
        """
        relative = _protected_path(uid)
        digest = hashlib.sha256(part10).hexdigest()
        write_durably(self._root / relative, part10)
        return StoredFile(path=relative, sha256=digest, size_bytes=len(part10))

    def read_protected(self, uid: str) -> bytes:
        """Return the protected object of a UID, a Part 10 file.

        Raises
        ------
        StoredObjectDamaged, InvalidObject
            It is not there; ``uid`` is not a UID.
        """
        with self.open(_protected_path(uid)) as stream:
            return stream.read()

    def open(self, relative: str) -> BinaryIO:
        """Open a stored file, a Part 10 file, for reading from its start.

        Raises
        ------
        StoredObjectDamaged
            It is missing or cannot be opened.
        """
        try:
            return self.path_of(relative).open("rb")
        except (OSError, InvalidObject) as error:
            raise StoredObjectDamaged(
                f"The stored file {relative} cannot be read: {_why(error)}"
            ) from error

    def exists(self, relative: str) -> bool:
        """Whether there is a file, whole or not."""
        return self.path_of(relative).is_file()

    def digest(self, relative: str) -> str:
        """Return the SHA-256 of a whole Part 10 file, hex.

        Raises
        ------
        StoredObjectDamaged
            It is missing or cannot be read.
        """
        digest = hashlib.sha256()
        with self.open(relative) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def path_of(self, relative: str) -> Path:
        """Return where a file lies on the disk; what it holds is `open`'s to say.

        Raises
        ------
        InvalidObject
            The path leads out of the store.
        """
        path = Path(relative)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidObject("A path of the index leads out of the store")
        return self._root / path

    def read_data_set(self, relative: str) -> tuple[bytes, str]:
        """Return the data set bytes of a stored file and their transfer syntax.

        Raises
        ------
        StoredObjectDamaged
            The file is missing or has no readable head.
        """
        try:
            with self.open(relative) as stream:
                meta = read_head(stream)
                return stream.read(), meta.transfer_syntax_uid
        except (OSError, InvalidObject) as error:
            raise StoredObjectDamaged(
                f"The stored file {relative} cannot be read: {_why(error)}"
            ) from error

    def remove(self, relative: str) -> None:
        """Remove a file that no row of the index names."""
        self.path_of(relative).unlink(missing_ok=True)

    def clear_incoming(self) -> int:
        """Remove what an interrupted reception left; return how many files.

        Only for the process that receives, before it listens.
        """
        leftovers = list((self._root / INCOMING).iterdir())
        for path in leftovers:
            path.unlink()
        return len(leftovers)


class OriginalWriter:
    """One received object on its way into the store.

    A context manager: leaving it without ``commit`` removes what was written.
    """

    def __init__(self, store: FileStore, meta: FileMeta) -> None:
        head = encode_head(meta)
        self._store = store
        self._meta = meta
        self._digest = hashlib.sha256()
        self._size_bytes = 0
        self._head_bytes = len(head)
        self._path = store.root / INCOMING / f"{secrets.token_hex(16)}.part"
        with refused_when_full():
            self._file = self._path.open("x+b", buffering=0)
        try:
            self._append(head)
        except BaseException:
            self.discard()
            raise

    @property
    def meta(self) -> FileMeta:
        """What the file meta information says."""
        return self._meta

    @property
    def size_bytes(self) -> int:
        """How many bytes of the data set are written."""
        return self._size_bytes

    @property
    def sha256(self) -> str:
        """The digest of the data set bytes so far."""
        return self._digest.hexdigest()

    def write(self, piece: bytes | memoryview) -> None:
        """Append to the data set.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        self._append(piece)
        self._digest.update(piece)
        self._size_bytes += len(piece)

    def open(self) -> BinaryIO:
        """Open what is written so far, as a Part 10 file, for reading."""
        return self._path.open("rb")

    def commit(self, kind: str = ORIGINALS) -> StoredFile:
        """Give the file its name, durably, and return it.

        The name holds digest and transfer syntax, so that a file of that name
        already there has the same content and stays.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        digest = self.sha256
        name = f"{digest}.{self._meta.transfer_syntax_uid}.dcm"
        relative = f"{kind}/{digest[:2]}/{name}"
        final = self._store.root / relative
        with refused_when_full():
            os.fsync(self._file.fileno())
            make_directory(final.parent)
            self._path.replace(final)
            sync_directory(final.parent)
        self._file.close()
        return StoredFile(path=relative, sha256=digest, size_bytes=self._size_bytes)

    def discard(self) -> None:
        """Remove what was written; harmless after ``commit``."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _append(self, piece: bytes | memoryview) -> None:
        view = memoryview(piece)
        with refused_when_full():
            while view:
                view = view[self._file.write(view) :]


def _protected_path(uid: str) -> str:
    """Where a protected object lies; the UID is checked before it is a name."""
    check_uid(uid, "SOP Instance UID")
    shelf = hashlib.sha256(uid.encode("ascii")).hexdigest()[:2]
    return f"{PROTECTED}/{shelf}/{uid}.dcm"


def _why(error: Exception) -> str:
    """Return what is wrong, without a path of this machine."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error)


def write_durably(path: Path, content: bytes) -> None:
    """Write a file so that its name shows the old or the new content, whole.

    Raises
    ------
    StoreFull
        The disk has no room; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with refused_when_full():
            make_directory(path.parent)
            with temporary.open("xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_directory(path: Path) -> None:
    """Make a directory, and its entry in its parent durable."""
    if path.is_dir():
        return
    path.mkdir(parents=True, exist_ok=True)
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
