"""The received and protected objects: sealed files, durable under their name.

Nothing is ever written in clear, not even while it comes in. What is read is
authentic, and the object of its name, or reading it raises.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, cast

from gateway.errors import InvalidObject, InvalidSeal
from gateway.sealing.envelope import EnvelopeWriter, open_sealed
from gateway.sealing.secretfile import overwrite
from gateway.sealing.slots import shred
from gateway.store.durable import (
    WholeFile,
    durably,
    make_directory,
    refused_when_full,
    sync_directory,
    write_durably,
)
from gateway.store.incoming import INCOMING, OriginalWriter, StoredFile
from gateway.store.names import (
    CONFLICTS,
    ORIGINALS,
    PROTECTED,
    Names,
    context_of,
)
from gateway.store.part10 import FileMeta, read_head
from gateway.store.stream import CHUNK_BYTES, StoredStream, all_of, damaged

if TYPE_CHECKING:
    from gateway.sealing.master import Keys
    from gateway.store.space import Space

__all__ = [
    "CONFLICTS",
    "ORIGINALS",
    "PROTECTED",
    "FileStore",
    "OriginalWriter",
    "StoredFile",
    "write_durably",
]


class FileStore:
    """The directory of received and protected objects.

    Parameters
    ----------
    root
        Made with its sub-directories when absent.
    keys
        The master keys of the site.
    secret
        32 octets that names of files are made with.
    space
        Refuses objects before the disk is full; None: nothing does.
    """

    def __init__(
        self, root: Path, keys: Keys, secret: bytes, space: Space | None = None
    ) -> None:
        self._root = root
        self._space = space
        self._keys = keys
        self._names = Names(secret)
        for name in (ORIGINALS, CONFLICTS, PROTECTED, INCOMING):
            make_directory(root / name)

    @property
    def root(self) -> Path:
        """The directory that all relative paths start from."""
        return self._root

    @property
    def keys(self) -> Keys:
        """The master keys that files are sealed under."""
        return self._keys

    @property
    def names(self) -> Names:
        """What makes the names of files."""
        return self._names

    @property
    def space(self) -> Space | None:
        """What refuses objects before the disk is full."""
        return self._space

    def take(self, octets: int) -> None:
        """Count what is written of an object.

        Raises
        ------
        StoreFull
            It would take of what is kept free.
        """
        if self._space is not None:
            self._space.take(octets)

    def begin_original(self, meta: FileMeta) -> OriginalWriter:
        """Start to write a received object whose data set comes in pieces.

        Raises
        ------
        StoreFull, InvalidObject
            No room; a UID that is none.
        ConfigurationError
            There is no master key to seal with.
        """
        if self._space is not None:
            self._space.admit()
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
        relative = self._names.protected(uid)
        digest = hashlib.sha256(part10).hexdigest()
        self.take(len(part10))
        self.seal(relative, io.BytesIO(part10))
        return StoredFile(path=relative, sha256=digest, size_bytes=len(part10))

    def seal(self, relative: str, content: BinaryIO) -> None:
        """Write a file of the store, durably; its content is read in pieces.

        Raises
        ------
        StoreFull
            No room; nothing is left behind.
        """
        with durably(self.path_of(relative)) as stream:
            envelope = EnvelopeWriter(
                cast("BinaryIO", stream), self._keys, context_of(relative)
            )
            while piece := content.read(CHUNK_BYTES):
                envelope.write(piece)
            envelope.finish()

    def adopt(self, file: WholeFile, path: Path, relative: str) -> None:
        """Give a whole file that came in its name in the store, durably.

        Parameters
        ----------
        file
            Open, everything written; it is closed.
        path
            Where it lies, in the folder of what comes in.
        relative
            Its name; a file of that name already there has the same content.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        final = self.path_of(relative)
        file.sync()
        with refused_when_full():
            make_directory(final.parent)
            path.replace(final)
            sync_directory(final.parent)
        file.close()

    def read_protected(self, uid: str) -> bytes:
        """Return the protected object of a UID, a Part 10 file.

        Raises
        ------
        StoredObjectDamaged, InvalidObject
            It is not there or not whole; ``uid`` is not a UID.
        """
        with self.open(self._names.protected(uid)) as stream:
            return all_of(stream)

    def open(self, relative: str) -> BinaryIO:
        """Open a stored file, a Part 10 file, for reading from its start.

        It can seek, and holds one chunk of 64 KiB in memory.

        Raises
        ------
        StoredObjectDamaged
            It is missing, does not open, or is sealed as another one. Reading
            raises the same where the rest of it was altered.
        """
        try:
            sealed = open_sealed(self.path_of(relative), self._keys)
        except (OSError, InvalidObject, InvalidSeal) as error:
            raise damaged(relative, error) from error
        if sealed.context != context_of(relative):
            sealed.close()
            raise damaged(relative, InvalidSeal("it is the seal of another file"))
        return cast("BinaryIO", StoredStream(sealed, relative))

    def exists(self, relative: str) -> bool:
        """Whether there is a file, whole or not."""
        return self.path_of(relative).is_file()

    def digest(self, relative: str, *, data_set: bool = False) -> str:
        """Return the SHA-256 of a Part 10 file, or of its data set, hex.

        Raises
        ------
        StoredObjectDamaged
            It is missing or cannot be read.
        """
        digest = hashlib.sha256()
        with self.open(relative) as stream:
            if data_set:
                _head_of(stream, relative)
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    def path_of(self, relative: str) -> Path:
        """Return where a sealed file lies on the disk; `open` reads it.

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
            The file is missing, damaged, or has no readable head.
        """
        with self.open(relative) as stream:
            meta = _head_of(stream, relative)
            return all_of(stream), meta.transfer_syntax_uid

    def remove(self, relative: str) -> None:
        """Remove a file that no row of the index names."""
        self.path_of(relative).unlink(missing_ok=True)

    def destroy(self, relative: str) -> None:
        """Remove a file for good: its key first, so that no copy of it opens.

        It may be gone already.
        """
        path = self.path_of(relative)
        try:
            shred(path)
        except FileNotFoundError:
            return
        except InvalidSeal:
            overwrite(path)  # in clear, of an earlier release, or damaged
        path.unlink(missing_ok=True)
        sync_directory(path.parent)

    def destroy_others(self, relative: str) -> None:
        """Destroy all received bytes of the object a file is of, under any name.

        A crash between a file and its row may have left some that no row names.
        """
        if not relative:
            return
        label = PurePosixPath(relative).name.rpartition("-")[2]
        for kind in (ORIGINALS, CONFLICTS):
            for path in (self._root / kind).glob(f"*/*-{label}"):
                self.destroy(path.relative_to(self._root).as_posix())

    def clear_incoming(self) -> int:
        """Remove what an interrupted reception left; return how many files.

        Only for the process that receives, before it listens.
        """
        leftovers = list((self._root / INCOMING).iterdir())
        for path in leftovers:
            path.unlink()
        return len(leftovers)


def _head_of(stream: BinaryIO, relative: str) -> FileMeta:
    try:
        return read_head(stream)
    except InvalidObject as error:
        raise damaged(relative, error) from error
