"""What seekable streams of opened content have in common."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SeekableReader(io.RawIOBase):
    """A stream that only has to say how it reads, seeks and tells."""

    @override
    @abstractmethod
    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many octets, fewer only at the end; all without a size."""

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
