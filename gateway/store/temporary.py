"""What is needed for a moment only: sealed, nameless, gone with the process."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, BinaryIO, Final, Self, cast

from gateway.errors import InvalidSeal
from gateway.sealing.envelope import EnvelopeWriter, open_envelope
from gateway.store.durable import refused_when_full
from gateway.store.stream import StoredStream, damaged

if TYPE_CHECKING:
    from gateway.sealing.master import Keys

NAME: Final = "temporary file"


class SealedTemporary:
    """A sealed file without a name, written once and then read.

    A context manager: nothing of it is left when the block ends. It is read by
    one reader at a time.

    Parameters
    ----------
    keys
        The master keys of the site.

    Raises
    ------
    StoreFull
        The disk has no room.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        with refused_when_full():
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by exit
        self._envelope = EnvelopeWriter(cast("BinaryIO", self._file), keys)

    def write(self, piece: bytes | memoryview) -> None:
        """Append.

        Raises
        ------
        StoreFull
            The disk has no room.
        """
        with refused_when_full():
            self._envelope.write(piece)

    def open(self) -> BinaryIO:
        """Open what was written, from its start; nothing more can be written.

        Raises
        ------
        StoreFull
            The disk has no room for the end.
        StoredObjectDamaged
            The disk does not give back what was written.
        """
        with refused_when_full():
            self._envelope.finish()
        stream = os.fdopen(os.dup(self._file.fileno()), "rb", buffering=0)
        try:
            sealed = open_envelope(cast("BinaryIO", stream), self._keys)
        except (OSError, InvalidSeal) as error:
            stream.close()
            raise damaged(NAME, error) from error
        return cast("BinaryIO", StoredStream(sealed, NAME))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
