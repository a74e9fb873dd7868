"""The key record of one original: its key sequence, with an item per frame.

What it holds is what recovery needs beside the protected objects: the key
sequence of every frame, and either what the integers lost (custody ``key``) or
the received octets themselves (custody ``sealed-original``). Planes and pixels
are held compressed, or lie compressed in a file, and are read one at a time: a
record takes little memory however many frames it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from engine.types import FrameKey
from gateway.vault.codec import Blob, pack_array, unpack_array
from gateway.vault.large import put_away

if TYPE_CHECKING:
    from engine.types import SIT, Rendering
    from gateway.store.octets import Octets
    from gateway.store.spool import Spool
    from gateway.vault.layout import PixelLayout
    from gateway.vault.shell import Shell

Kind = Literal["file", "data-set"]
"""What was received: a whole Part 10 file, or a data set over an association."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameMark:
    """Key sequence of one frame without its planes; fields as in `FrameKey`."""

    x: int
    y: int
    alpha: int
    sit: SIT
    logo_sha256: str
    rendering: Rendering
    minimum: int
    maximum: int
    delta_unit: float
    stored_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FramePlanes:
    """Planes of a frame key, compressed; what they are, `FrameKey` says."""

    patch: Blob
    delta: Blob
    residual: Blob


@dataclass(frozen=True, kw_only=True)
class KeyCustody:
    """The paper's custody: the original is rebuilt from protected objects and key.

    ``shell`` is everything received but the pixel values.
    """

    shell: Shell
    planes: tuple[FramePlanes, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class PixelCustody:
    """The original's pixel values, one image per frame, and all around them."""

    shell: Shell
    frames: tuple[Blob, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class WholeCustody:
    """All received octets as they came: compressed sources can be kept no other way."""

    received: Octets = field(repr=False)


Custody = KeyCustody | PixelCustody | WholeCustody


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordPart:
    """One protected object made of the original.

    Attributes
    ----------
    uid
        Its SOP Instance UID.
    layout
        How its pixel values lie; None for objects without a marked picture.
    sha256
        Digest (hex) of those octets without padding; '' without a picture.
    """

    uid: str
    layout: PixelLayout | None = None
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """All that, with the protected objects, gives the received octets back.

    Attributes
    ----------
    parts
        The protected objects in the order of their frames.
    original_uid, sop_class_uid, transfer_syntax_uid
        SOP Instance UID, class and syntax of the original.
    kind, original_name
        What was received, and under which file name (empty for data sets).
    original_sha256, original_size
        Digest (hex) and number of the received octets.
    marks
        Key sequence: an item for every frame, in the order of the parts.
    custody
        How the original is kept.
    """

    parts: tuple[RecordPart, ...]
    original_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    kind: Kind
    original_name: str = ""
    original_sha256: str
    original_size: int
    marks: tuple[FrameMark, ...]
    custody: Custody

    @property
    def protected_uid(self) -> str:
        """The protected object under which the record is kept: the first."""
        return self.parts[0].uid

    @property
    def custody_name(self) -> str:
        """``key`` or ``sealed-original``."""
        return "key" if isinstance(self.custody, KeyCustody) else "sealed-original"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordLink:
    """Says of a further protected object where the record of its original is.

    ``first_uid`` is the object the record is kept under; the other fields are
    as in `KeyRecord`.
    """

    protected_uid: str
    first_uid: str
    original_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    original_sha256: str


def links_of(record: KeyRecord) -> tuple[RecordLink, ...]:
    """Links from all protected objects but the first to the record."""
    return tuple(
        RecordLink(
            protected_uid=part.uid,
            first_uid=record.protected_uid,
            original_uid=record.original_uid,
            sop_class_uid=record.sop_class_uid,
            transfer_syntax_uid=record.transfer_syntax_uid,
            original_sha256=record.original_sha256,
        )
        for part in record.parts[1:]
    )


def mark_of(key: FrameKey) -> FrameMark:
    """Key sequence of a frame key, without the planes."""
    return FrameMark(
        x=key.x,
        y=key.y,
        alpha=key.alpha,
        sit=key.sit,
        logo_sha256=key.logo_sha256,
        rendering=key.rendering,
        minimum=key.minimum,
        maximum=key.maximum,
        delta_unit=key.delta_unit,
        stored_sha256=key.stored_sha256,
    )


def planes_of(key: FrameKey) -> FramePlanes:
    """Compress the planes of a frame key."""
    return FramePlanes(
        patch=pack_array(key.patch),
        delta=pack_array(key.delta),
        residual=pack_array(key.residual),
    )


def put_away_planes(planes: FramePlanes, spool: Spool) -> FramePlanes:
    """Planes whose compressed octets lie in a spool."""
    return FramePlanes(
        patch=put_away(planes.patch, spool),
        delta=put_away(planes.delta, spool),
        residual=put_away(planes.residual, spool),
    )


def frame_key(mark: FrameMark, planes: FramePlanes) -> FrameKey:
    """Join an item of the key sequence and its planes again.

    Raises
    ------
    InvalidSeal
        A plane is malformed.
    """
    return FrameKey(
        x=mark.x,
        y=mark.y,
        alpha=mark.alpha,
        sit=mark.sit,
        logo_sha256=mark.logo_sha256,
        patch=unpack_array(planes.patch).astype(np.uint8),
        delta=unpack_array(planes.delta).astype(np.int8),
        rendering=mark.rendering,
        minimum=mark.minimum,
        maximum=mark.maximum,
        delta_unit=mark.delta_unit,
        residual=unpack_array(planes.residual).astype(np.int32),
        stored_sha256=mark.stored_sha256,
    )
