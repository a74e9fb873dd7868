"""One original on its way to its protected objects, frame by frame.

Marked frames are laid out and keys compressed as they come, and put into a spool.
Memory holds a frame at a time and where the others lie, however many there are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from gateway.dicom.derived_pixels import plan_parts
from gateway.dicom.lenient import text
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import read_source
from gateway.store.octets import Joined, after, sha256_of
from gateway.store.spool import Spool
from gateway.vault.codec import pack_image
from gateway.vault.large import packed, put_away
from gateway.vault.layout import pack
from gateway.vault.record import (
    FrameMark,
    FramePlanes,
    KeyCustody,
    KeyRecord,
    Kind,
    PixelCustody,
    RecordPart,
    WholeCustody,
    mark_of,
    planes_of,
    put_away_planes,
)
from gateway.vault.shell import ShellTaker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from config.schema import Custody as CustodyWish
    from engine.search.trace import Trace
    from engine.types import Frame, FrameKey
    from gateway.dicom.derived_pixels import Part
    from gateway.dicom.pixels import Reading, Source
    from gateway.store.octets import Octets
    from gateway.vault.codec import Blob
    from gateway.vault.record import Custody

SMALL: Final = 1 << 20
"""Below this many received octets the whole of them may be the smallest form: beside
few pixels the rest counts."""


class Report(Protocol):
    """What the engine says of one frame."""

    @property
    def success(self) -> bool:
        """Whether the models' opinion changed on the final pixels."""

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""


class MarkedFrame(Protocol):
    """A protected frame: what is sent, its key, and how it came about."""

    @property
    def stored(self) -> NDArray[np.int32]:
        """Stored values, shape and range of the original."""

    @property
    def key(self) -> FrameKey:
        """What gives the original back."""

    @property
    def report(self) -> Report:
        """What was achieved."""

    @property
    def trace(self) -> Trace | None:
        """How the place of the mark was searched, where one was."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """Received octets.

    Attributes
    ----------
    data
        A data set, or a whole Part 10 file; read as it is needed.
    kind
        Which of the two.
    transfer_syntax_uid
        Of the data set; a file says it itself.
    name
        File name, without folders; empty for data sets.
    file
        Where the octets are read from, where that has to be closed.
    """

    data: Octets = field(repr=False)
    kind: Kind
    transfer_syntax_uid: str = ""
    name: str = ""
    file: BinaryIO | None = field(default=None, repr=False)

    def close(self) -> None:
        """Close the file that the octets are read from, if there is one."""
        if self.file is not None:
            self.file.close()

    @cached_property
    def sha256(self) -> str:
        """Digest of the octets, hex."""
        return sha256_of(self.data)

    def data_set(self) -> tuple[int, str]:
        """Offset of the data set in the octets, and its transfer syntax.

        Raises
        ------
        Unprotectable
            A file that is none.
        """
        if self.kind == "file":
            return data_set_offset(self.data)
        return 0, self.transfer_syntax_uid


@dataclass(frozen=True)
class Refused:
    """Stands where an original cannot even be begun."""

    error: Exception
    finished: bool = True

    def close(self) -> None:
        """Do nothing: no file is open."""


class Draft:
    """What has been made of one original so far.

    Parameters
    ----------
    original
        What was received.
    reading
        What the site says about reading.
    traces
        Whether to keep how each mark was searched.

    Raises
    ------
    Unprotectable
        It cannot be protected.
    """

    def __init__(self, original: Original, reading: Reading, *, traces: bool) -> None:
        self.original = original
        self.offset, syntax = original.data_set()
        data_set = after(original.data, self.offset)
        self.source: Source = read_source(data_set, syntax, reading=reading)
        self.parts: tuple[Part, ...] = plan_parts(self.source, reading.split_frames)
        self.spool = Spool()
        self._values: list[list[Octets]] = [[] for _ in self.parts]
        self._digests = [hashlib.sha256() for _ in self.parts]
        self.reports: list[Report] = []
        self.traces: list[Trace | None] = []
        self.error: Exception | None = None
        self._keep_traces = traces
        self._marks: list[FrameMark] = []
        self._planes: list[FramePlanes] = []
        self._pixels: list[Blob] = []
        self._shell = self._taker()

    @property
    def uid(self) -> str:
        """SOP Instance UID of the original."""
        return text(self.source.dataset, "SOPInstanceUID")

    @property
    def finished(self) -> bool:
        """Whether no frame is awaited any more."""
        return self.error is not None or len(self._marks) == self.source.count

    def close(self) -> None:
        """Close the original's file; nothing more is read of it."""
        self.original.close()

    def seed(self, index: int) -> bytes:
        """Tell a frame from all others, for the engine's draws."""
        return f"{self.uid} {index}".encode()

    def add(self, frame: Frame, marked: MarkedFrame) -> None:
        """Take the next frame over: the original and what was made of it."""
        index = len(self._marks)
        part = index // len(self.parts[0].frames)  # all parts have as many
        laid_out = pack([marked.stored], self.parts[part].layout)
        self._values[part].append(self.spool.add(laid_out))
        self._digests[part].update(laid_out)
        self._marks.append(mark_of(marked.key))
        self.reports.append(marked.report)
        self.traces.append(marked.trace if self._keep_traces else None)
        if self._shell is not None:
            self._shell.add(frame.stored)
            self._planes.append(put_away_planes(planes_of(marked.key), self.spool))
            self._pixels.append(put_away(pack_image(frame.stored), self.spool))

    def value(self, part: int) -> Octets:
        """Pixel octets of a part."""
        return Joined(self._values[part])

    def records(self, uids: Sequence[str], wish: CustodyWish) -> Iterator[KeyRecord]:
        """Yield records of the original, one for each way it may be kept.

        Parameters
        ----------
        uids
            SOP Instance UIDs of its protected objects, in order.
        wish
            ``key``: the key sequence wherever received octets can be rebuilt from
            it, the octets themselves where they cannot (compressed sources).
        """
        parts = tuple(
            RecordPart(uid=uid, layout=part.layout, sha256=digest.hexdigest())
            for uid, part, digest in zip(uids, self.parts, self._digests, strict=True)
        )
        for custody in self._custodies(wish):
            yield KeyRecord(
                parts=parts,
                original_uid=self.uid,
                sop_class_uid=text(self.source.dataset, "SOPClassUID"),
                transfer_syntax_uid=self.source.transfer_syntax_uid,
                kind=self.original.kind,
                original_name=self.original.name,
                original_sha256=self.original.sha256,
                original_size=len(self.original.data),
                marks=tuple(self._marks),
                custody=custody,
            )

    def _custodies(self, wish: CustodyWish) -> Iterator[Custody]:
        if self._shell is None:
            yield WholeCustody(received=packed(self.original.data, self.spool))
            return
        shell = self._shell.shell()
        if wish != "sealed-original":
            yield KeyCustody(shell=shell, planes=tuple(self._planes))
        if wish != "key":
            yield PixelCustody(shell=shell, frames=tuple(self._pixels))
            if len(self.original.data) < SMALL:
                yield WholeCustody(received=self.original.data[:])

    def _taker(self) -> ShellTaker | None:
        native = self.source.native
        if native is None:
            return None
        bounds = (self.offset + native.start, self.offset + native.end)
        return ShellTaker(self.original.data, bounds, native.layout, self.spool)
