"""The received and protected objects: sealed files, durable under their name.

Nothing is ever written in clear, not even while it comes in. What is read is
authentic, and the object of its name, or reading it raises.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from gateway.errors import InvalidObject, InvalidSeal, StoreUnavailable
from gateway.sealing.envelope import EnvelopeWriter, open_envelope
from gateway.store.blobs import Blobs, LocalBlobs
from gateway.store.durable import (
    WholeFile,
    make_directory,
    remove_unclaimed,
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
    from collections.abc import Iterable, Iterator

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


FOLDER: Final = "store"
"""Of objects in a place that holds other things, too."""


class FileStore:
    """Received and protected objects.

    Parameters
    ----------
    root
        Directory of this machine: what comes in lies there, and what is stored,
        too, unless it is shared. Made when absent.
    keys
        The master keys of the site.
    secret
        32 octets that names of files are made with.
    shared
        Where several machines keep what is stored.
    space
        Refuses objects before the disk is full; None: nothing does.
    """

    def __init__(
        self,
        root: Path,
        keys: Keys,
        secret: bytes,
        shared: Blobs | None = None,
        space: Space | None = None,
    ) -> None:
        self._root = root
        self._incoming = root / INCOMING
        self._space = space
        self._keys = keys
        self._names = Names(secret)
        self._local = LocalBlobs(root)
        self._blobs = self._local if shared is None else shared
        self._prefix = "" if shared is None else f"{FOLDER}/"
        kinds = (ORIGINALS, CONFLICTS, PROTECTED) if shared is None else ()
        for name in (*kinds, INCOMING):
            make_directory(root / name)

    @property
    def is_shared(self) -> bool:
        """Whether other machines store in the same place."""
        return self._blobs.is_shared

    @property
    def root(self) -> Path:
        """The directory that all relative paths start from."""
        return self._root

    @property
    def incoming(self) -> Path:
        """Where objects lie while they come in."""
        return self._incoming

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

    def write_protected(self, uid: str, part10: bytes | BinaryIO) -> StoredFile:
        """Store a protected object under its UID, durably; may be repeated.

        Parameters
        ----------
        uid
            Its SOP Instance UID.
        part10
            The file; of a stream the rest, read in pieces.

        Raises
        ------
        StoreFull, InvalidObject
            No room; ``uid`` is not a UID.
        """
        relative = self._names.protected(uid)
        content = io.BytesIO(part10) if isinstance(part10, bytes) else part10
        start = content.tell()
        self.take(content.seek(0, io.SEEK_END) - start)
        content.seek(start)
        digest, size = self.seal(relative, content)
        return StoredFile(path=relative, sha256=digest, size_bytes=size)

    def seal(self, relative: str, content: BinaryIO) -> tuple[str, int]:
        """Write a file of the store, durably; its content is read in pieces.

        Returns
        -------
        tuple
            SHA-256 of the content, hex, and how many octets it has.

        Raises
        ------
        StoreFull, StoreUnavailable
            No room, or no answer; nothing is left behind.
        """
        with self._blobs.writing(self._prefix + relative) as stream:
            envelope = EnvelopeWriter(stream, self._keys, context_of(relative))
            digest = hashlib.sha256()
            while piece := content.read(CHUNK_BYTES):
                envelope.write(piece)
                digest.update(piece)
            envelope.finish()
        return digest.hexdigest(), envelope.size

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
        StoreFull, StoreUnavailable
            There is no room, or the object store does not answer.
        """
        self._blobs.adopt(file, path, self._prefix + relative)

    def set_aside(self, relative: str) -> str:
        """Keep a received file as other content of a known UID, durably.

        Returns
        -------
        str
            Its new name.
        """
        aside = f"{CONFLICTS}/{relative.partition('/')[2]}"
        self._blobs.move(self._prefix + relative, self._prefix + aside)
        return aside

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
        StoreUnavailable
            The object store does not answer.
        """
        try:
            stream = self._blobs.open(self._prefix + relative)
        except (OSError, InvalidObject) as error:
            raise damaged(relative, error) from error
        try:
            sealed = open_envelope(stream, self._keys)
        except BaseException as error:
            stream.close()
            if isinstance(error, OSError | InvalidSeal):
                raise damaged(relative, error) from error
            raise
        if sealed.context != context_of(relative):
            sealed.close()
            raise damaged(relative, InvalidSeal("it is the seal of another file"))
        return cast("BinaryIO", StoredStream(sealed, relative))

    def exists(self, relative: str) -> bool:
        """Whether there is a file, whole or not."""
        return self._blobs.exists(self._prefix + relative)

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
        """Return where a sealed file lies on this disk, if it does not elsewhere.

        Raises
        ------
        InvalidObject
            The path leads out of the store.
        """
        return self._local.path_of(relative)

    def read_data_set(self, relative: str) -> tuple[bytes, str]:
        """Return the data set bytes of a stored file and their transfer syntax.

        Raises
        ------
        StoredObjectDamaged
            The file is missing, damaged, or has no readable head.
        """
        stream, syntax = self.open_data_set(relative)
        with stream:
            return all_of(stream), syntax

    def open_data_set(self, relative: str) -> tuple[BinaryIO, str]:
        """Open a stored file at its data set; also its transfer syntax.

        Raises
        ------
        StoredObjectDamaged
            As `read_data_set`.
        """
        stream = self.open(relative)
        try:
            meta = _head_of(stream, relative)
        except BaseException:
            stream.close()
            raise
        return stream, meta.transfer_syntax_uid

    def remove(self, relative: str) -> None:
        """Remove a file that no row of the index names."""
        self._blobs.remove(self._prefix + relative)

    def destroy(self, relative: str) -> None:
        """Remove a file for good: its key first, so that no copy of it opens.

        It may be gone already.
        """
        self._blobs.destroy(self._prefix + relative)

    def size(self, relative: str) -> int:
        """Return the octets that a file takes, sealed; 0 where there is none."""
        try:
            return self._blobs.size(self._prefix + relative)
        except FileNotFoundError:
            return 0

    def taking_away(self, relative: str) -> AbstractContextManager[None]:
        """Keep receivers from putting back a file that is being destroyed."""
        return self._blobs.alone(self._prefix + relative)

    @contextmanager
    def putting_back(self, relative: str) -> Iterator[None]:
        """Keep retention from a file that came again while its row is changed.

        On this machine, whoever receives holds that lock already
        (`gateway.store.deposit`).

        Raises
        ------
        StoreUnavailable
            Another machine has destroyed it in between: sent again, it is kept.
        """
        if not self.is_shared:
            yield
            return
        with self.taking_away(relative):
            if not self.exists(relative):
                raise StoreUnavailable(
                    "the file went while it came again: send it once more"
                )
            yield

    def check(self) -> None:
        """See that the place answers.

        Raises
        ------
        OSError, StoreUnavailable
            It does not.
        """
        self._blobs.check()

    def destroy_others(self, relatives: Iterable[str]) -> None:
        """Destroy all received bytes of the objects files are of, under any name.

        A crash between a file and its row may have left some that no row names.
        """
        labels = {label_of(each) for each in relatives if each}
        if not labels:
            return
        for kind in (ORIGINALS, CONFLICTS):
            for name in self._blobs.names(self._prefix + kind):
                if label_of(name) in labels:
                    self._blobs.destroy(name)

    def clear_incoming(self) -> int:
        """Remove what interrupted receptions left; return how many files.

        What another process is writing stays.
        """
        return sum(remove_unclaimed(path) for path in self._incoming.iterdir())


def label_of(relative: str) -> str:
    """Return the mark of an object in the name of one of its files."""
    return PurePosixPath(relative).name.rpartition("-")[2]


def _head_of(stream: BinaryIO, relative: str) -> FileMeta:
    try:
        return read_head(stream)
    except InvalidObject as error:
        raise damaged(relative, error) from error
