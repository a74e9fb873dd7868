"""What seekable streams of opened content have in common."""

from __future__ import annotations

import io
import os
from abc import abstractmethod
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SeekableReader(io.RawIOBase):
    """A stream that only has to say how long it is, and how it reads.

    Reading is from ``_at``, the present position, and moves it on.
    """

    def __init__(self) -> None:
        super().__init__()
        self._at = 0

    @abstractmethod
    def _length(self) -> int:
        """Return how many octets there are."""

    @override
    @abstractmethod
    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many octets, fewer only at the end; all without a size."""

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position, also behind the end, where nothing is read.

        Raises
        ------
        ValueError
            Before the start, or no such ``whence``.
        """
        if whence == os.SEEK_SET:
            base = 0
        elif whence == os.SEEK_CUR:
            base = self._at
        elif whence == os.SEEK_END:
            base = self._length()
        else:
            raise ValueError("positions count from the start, here, or the end")
        if base + offset < 0:
            raise ValueError("no such position in the content")
        self._at = base + offset
        return self._at

    @override
    def tell(self) -> int:
        return self._at

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def readall(self) -> bytes:
        return self.read()

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def _wanted(self, size: int | None) -> int:
        """Return how many octets a read of a size gives."""
        left = max(self._length() - self._at, 0)
        return left if size is None or size < 0 else min(size, left)
