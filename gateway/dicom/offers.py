"""Which transfer syntaxes an object can be sent in without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from config.schema import Destination, TransferSyntax
from gateway.dicom.parse import DEFLATED_FRAMES

SYNTAXES: Final[Mapping[TransferSyntax, UID | None]] = {
    "as-stored": None,
    "explicit-little-endian": ExplicitVRLittleEndian,
    "implicit-little-endian": ImplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls-lossless": JPEGLSLossless,
    "jpeg-2000-lossless": JPEG2000Lossless,
}
"""What settings name; None: as an object lies here."""

COMPRESSED: Final = frozenset({RLELossless, JPEGLSLossless, JPEG2000Lossless})

UNCOMPRESSED: Final = frozenset(
    {
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    }
)

LOSSLESS: Final = UNCOMPRESSED | frozenset(
    {
        RLELossless,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEG2000Lossless,
        DEFLATED_FRAMES,
    }
)
"""What is read from to be written anew."""

LOSSY: Final = frozenset(
    {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000}
)
"""What may be decompressed where a destination's settings say so."""


def offers_for(
    transfer_syntax_uid: str, destination: Destination, *, transcoding: bool = True
) -> tuple[str, ...]:
    """Return what an object may be sent in, in the order of choice.

    Parameters
    ----------
    transfer_syntax_uid
        What it lies here in.
    destination
        Whose settings say what is offered.
    transcoding
        Whether objects can be written anew at all.
    """
    own = UID(transfer_syntax_uid)
    readable = LOSSLESS | (LOSSY if destination.decompress_lossy else frozenset())
    offers: list[str] = []
    for name in destination.transfer_syntaxes:
        syntax = SYNTAXES[name] or own
        if syntax == own or (transcoding and own in readable):
            offers.append(str(syntax))
    return tuple(dict.fromkeys(offers))


def describe_syntax(transfer_syntax_uid: str) -> str:
    """Return the name of a transfer syntax, or its UID where it has none."""
    return UID(transfer_syntax_uid).name
