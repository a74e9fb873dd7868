"""The key record of one protected object.

What it holds is what recovery needs beside the protected object: the key
sequence of every frame, and either what the integers lost (custody ``key``) or
the received octets themselves (custody ``sealed-original``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from engine.types import FrameKey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.types import SIT, Rendering
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


@dataclass(frozen=True, kw_only=True)
class FramePlanes:
    """Planes of a frame key; shapes and types as in `FrameKey`."""

    patch: NDArray[np.uint8] = field(repr=False)
    delta: NDArray[np.int8] = field(repr=False)
    residual: NDArray[np.int32] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class KeyCustody:
    """The paper's custody: the original is rebuilt from protected object and key.

    ``shell`` is everything received but the pixel values.
    """

    shell: Shell
    planes: tuple[FramePlanes, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class PixelCustody:
    """The original's pixel values, int32 as in `Frame`, and all around them."""

    shell: Shell
    frames: tuple[NDArray[np.int32], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class WholeCustody:
    """All received octets as they came: compressed sources can be kept no other way."""

    received: bytes = field(repr=False)


Custody = KeyCustody | PixelCustody | WholeCustody


@dataclass(frozen=True, kw_only=True)
class KeyRecord:
    """All that, with the protected object, gives the received octets back.

    Attributes
    ----------
    protected_uid, original_uid, sop_class_uid, transfer_syntax_uid
        SOP Instance UIDs of both objects; class and syntax of the original.
    kind, original_name
        What was received, and under which file name (empty for data sets).
    original_sha256, original_size
        Digest (hex) and number of the received octets.
    protected_layout, protected_sha256
        How the protected pixel values lie, and the digest of those octets
        without padding.
    marks
        Key sequence of every frame.
    custody
        How the original is kept.
    """

    protected_uid: str
    original_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    kind: Kind
    original_name: str = ""
    original_sha256: str
    original_size: int
    protected_layout: PixelLayout
    protected_sha256: str
    marks: tuple[FrameMark, ...]
    custody: Custody

    @property
    def custody_name(self) -> str:
        """``key`` or ``sealed-original``."""
        return "key" if isinstance(self.custody, KeyCustody) else "sealed-original"


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
    """Planes of a frame key."""
    return FramePlanes(patch=key.patch, delta=key.delta, residual=key.residual)


def frame_key(mark: FrameMark, planes: FramePlanes) -> FrameKey:
    """Join key sequence and planes again."""
    return FrameKey(
        x=mark.x,
        y=mark.y,
        alpha=mark.alpha,
        sit=mark.sit,
        logo_sha256=mark.logo_sha256,
        patch=planes.patch,
        delta=planes.delta,
        rendering=mark.rendering,
        minimum=mark.minimum,
        maximum=mark.maximum,
        delta_unit=mark.delta_unit,
        residual=planes.residual,
        stored_sha256=mark.stored_sha256,
    )
