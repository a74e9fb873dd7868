"""Reads key records of version 1: one protected object, a plain JSON header.

Nothing writes them any more; what was protected then is recovered for ever.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from gateway.store.octets import part_of
from gateway.vault.container_custody import read_custody
from gateway.vault.layout import PixelLayout
from gateway.vault.record import KeyRecord, RecordPart
from gateway.vault.record_json import read_blob, read_mark

if TYPE_CHECKING:
    from gateway.store.octets import Octets

PLAIN: Final = (
    "original_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "kind",
    "original_name",
    "original_sha256",
    "original_size",
)


def read_version_1(text: bytes, data: Octets) -> KeyRecord:
    """Read a record.

    Parameters
    ----------
    text
        The JSON header.
    data
        The blobs, one after the other.

    Raises
    ------
    LookupError, TypeError, ValueError, AttributeError
        These are not the octets of such a record.
    """
    header: dict[str, Any] = json.loads(text)
    blobs = {}
    at = 0
    for entry in header["blobs"]:
        end = at + entry["length"]
        blobs[entry["name"]] = read_blob(entry, part_of(data, at, end))
        at = end
    if at != len(data):
        raise ValueError("blobs do not fill the record")
    marks = tuple(read_mark(each) for each in header["marks"])
    part = RecordPart(
        uid=header["protected_uid"],
        layout=PixelLayout(**header["protected_layout"]),
        sha256=header["protected_sha256"],
    )
    return KeyRecord(
        **{keyword: header[keyword] for keyword in PLAIN},
        parts=(part,),
        marks=marks,
        custody=read_custody(header["custody"], blobs, len(marks)),
    )
