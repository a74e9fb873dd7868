"""Reading of sealed files of the store: damage is told by the file's name."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Final

from typing_extensions import override

from gateway.errors import InvalidSeal, StoredObjectDamaged
from gateway.sealing.reading import SeekableReader

if TYPE_CHECKING:
    from gateway.sealing.envelope import EnvelopeReader

CHUNK_BYTES: Final = 1 << 20


class StoredStream(SeekableReader):
    """Content of a stored file; damage names the file."""

    def __init__(self, sealed: EnvelopeReader, name: str) -> None:
        super().__init__()
        self._sealed = sealed
        self._file = name

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._sealed.seek(offset, whence)

    @override
    def tell(self) -> int:
        return self._sealed.tell()

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, fewer only at the end.

        Raises
        ------
        StoredObjectDamaged
            They are not those that were stored, or cannot be read.
        """
        try:
            return self._sealed.read(size)
        except (OSError, InvalidSeal) as error:
            raise damaged(self._file, error) from error

    @override
    def close(self) -> None:
        self._sealed.close()
        super().close()


def all_of(stream: BinaryIO) -> bytes:
    """Return the rest of a stream; memory holds it once, and a chunk."""
    collected = io.BytesIO()
    while piece := stream.read(CHUNK_BYTES):
        collected.write(piece)
    return collected.getvalue()


def damaged(name: str, error: Exception) -> StoredObjectDamaged:
    """Say what is wrong with a file, without a path of this machine."""
    strerror = error.strerror if isinstance(error, OSError) else None
    return StoredObjectDamaged(
        f"The stored file {name} cannot be read: {strerror or error}"
    )
