"""Reading of sealed files of the store: damage is told by the file's name."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO, Final

from typing_extensions import override

from gateway.errors import InvalidSeal, StoredObjectDamaged
from gateway.sealing.reading import SeekableReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.sealing.envelope import EnvelopeReader

CHUNK_BYTES: Final = 1 << 20


class StoredStream(SeekableReader):
    """Content of a stored file; damage names the file."""

    def __init__(self, sealed: EnvelopeReader, name: str) -> None:
        super().__init__()
        self._sealed = sealed
        self._file = name

    @override
    def _length(self) -> int:
        return self._sealed.size

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, fewer only at the end.

        Raises
        ------
        StoredObjectDamaged
            They are not those that were stored, or cannot be read.
        """
        try:
            self._sealed.seek(self._at)
            piece = self._sealed.read(size)
        except (OSError, InvalidSeal) as error:
            raise damaged(self._file, error) from error
        self._at += len(piece)
        return piece

    @override
    def close(self) -> None:
        self._sealed.close()
        super().close()


class Beginning(SeekableReader):
    """A stream of which the beginning is at hand, and the whole can be opened.

    Parameters
    ----------
    held
        Its first octets.
    size
        Of the whole.
    open_whole
        Opens the whole at its start; called when more than the beginning is read.
    """

    def __init__(
        self, held: bytes, size: int, open_whole: Callable[[], BinaryIO]
    ) -> None:
        super().__init__()
        self._held = held
        self._size = size
        self._open_whole = open_whole
        self._whole: BinaryIO | None = None

    @override
    def _length(self) -> int:
        return self._size

    @override
    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, fewer only at the end."""
        wanted = self._wanted(size)
        end = self._at + wanted
        if end <= len(self._held):
            piece = self._held[self._at : end]
        else:
            if self._whole is None:
                self._whole = self._open_whole()
            self._whole.seek(self._at)
            piece = self._whole.read(wanted)
        self._at += len(piece)
        return piece

    @override
    def close(self) -> None:
        if self._whole is not None:
            self._whole.close()
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
