"""Key records as octets: a JSON header, then blobs (docs/record-format.md)."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from engine.errors import InvalidFrame
from engine.types import SIT, Rendering
from gateway.errors import InvalidSeal
from gateway.vault.codec import (
    FAST_LEVEL,
    Blob,
    pack_array,
    pack_bytes,
    pack_image,
    unpack_array,
    unpack_bytes,
)
from gateway.vault.layout import PixelLayout
from gateway.vault.record import (
    Custody,
    FrameMark,
    FramePlanes,
    KeyCustody,
    KeyRecord,
    PixelCustody,
    WholeCustody,
)
from gateway.vault.shell import Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"MIADKEY"
VERSION: Final = 1
UNKNOWN: Final = "octets are not a key record of a known version"
HEAD: Final = struct.Struct("<7sBI")
"""Magic, version, length of the JSON header."""

PLAIN: Final = (
    "protected_uid",
    "original_uid",
    "sop_class_uid",
    "transfer_syntax_uid",
    "kind",
    "original_name",
    "original_sha256",
    "original_size",
    "protected_sha256",
)


def encode_record(record: KeyRecord) -> bytes:
    """Octets of a record.

    Equal records have equal octets.
    """
    blobs = dict(_custody_blobs(record.custody))
    header = {keyword: getattr(record, keyword) for keyword in PLAIN}
    header["protected_layout"] = asdict(record.protected_layout)
    header["marks"] = [_mark_json(mark) for mark in record.marks]
    header["custody"] = _custody_json(record.custody)
    header["blobs"] = [_blob_json(name, blob) for name, blob in blobs.items()]
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    head = HEAD.pack(MAGIC, VERSION, len(text))
    return b"".join([head, text, *(blob.data for blob in blobs.values())])


def decode_record(data: bytes) -> KeyRecord:
    """Record of octets.

    Raises
    ------
    InvalidSeal
        These are not the octets of a record this version can read.
    """
    try:
        return _decode(data)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidSeal(UNKNOWN) from error
    except (struct.error, InvalidFrame) as error:
        raise InvalidSeal(UNKNOWN) from error


def _decode(data: bytes) -> KeyRecord:
    magic, version, length = HEAD.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise ValueError("not a record of this version")
    end = HEAD.size + length
    header = json.loads(data[HEAD.size : end])
    blobs = _read_blobs(header["blobs"], data, end)
    marks = tuple(_mark(each) for each in header["marks"])
    return KeyRecord(
        **{keyword: header[keyword] for keyword in PLAIN},
        protected_layout=PixelLayout(**header["protected_layout"]),
        marks=marks,
        custody=_read_custody(header["custody"], blobs, len(marks)),
    )


def _custody_json(custody: Custody) -> dict[str, Any]:
    if isinstance(custody, WholeCustody):
        return {"form": "whole"}
    form = "key" if isinstance(custody, KeyCustody) else "pixels"
    shell = custody.shell
    return {
        "form": form,
        "layout": asdict(shell.layout),
        "value_length": shell.value_length,
    }


def _custody_blobs(custody: Custody) -> Iterator[tuple[str, Blob]]:
    if isinstance(custody, WholeCustody):
        yield "received", pack_bytes(custody.received, level=FAST_LEVEL)
        return
    yield "prefix", pack_bytes(custody.shell.prefix)
    yield "suffix", pack_bytes(custody.shell.suffix)
    yield "correction", pack_bytes(custody.shell.correction)
    if isinstance(custody, PixelCustody):
        for index, frame in enumerate(custody.frames):
            yield f"frame {index}", pack_image(frame)
        return
    for index, planes in enumerate(custody.planes):
        for plane in fields(FramePlanes):
            array = getattr(planes, plane.name)
            yield f"{plane.name} {index}", pack_array(array)


def _read_custody(
    header: dict[str, Any], blobs: dict[str, Blob], count: int
) -> Custody:
    form = header["form"]
    if form == "whole":
        return WholeCustody(received=unpack_bytes(blobs["received"]))
    shell = Shell(
        prefix=unpack_bytes(blobs["prefix"]),
        suffix=unpack_bytes(blobs["suffix"]),
        correction=unpack_bytes(blobs["correction"]),
        layout=PixelLayout(**header["layout"]),
        value_length=header["value_length"],
    )
    if form == "pixels":
        frames = tuple(_int32(blobs[f"frame {index}"]) for index in range(count))
        return PixelCustody(shell=shell, frames=frames)
    if form != "key":
        raise ValueError("unknown custody")
    return KeyCustody(
        shell=shell, planes=tuple(_read_planes(blobs, index) for index in range(count))
    )


def _read_planes(blobs: dict[str, Blob], index: int) -> FramePlanes:
    return FramePlanes(
        patch=unpack_array(blobs[f"patch {index}"]).astype(np.uint8),
        delta=unpack_array(blobs[f"delta {index}"]).astype(np.int8),
        residual=_int32(blobs[f"residual {index}"]),
    )


def _int32(blob: Blob) -> np.typing.NDArray[np.int32]:
    return unpack_array(blob).astype(np.int32)


def _blob_json(name: str, blob: Blob) -> dict[str, Any]:
    return {
        "name": name,
        "codec": blob.codec,
        "dtype": blob.dtype,
        "stored": blob.stored,
        "shape": list(blob.shape),
        "origin": blob.origin,
        "length": len(blob.data),
    }


def _read_blobs(
    entries: list[dict[str, Any]], data: bytes, start: int
) -> dict[str, Blob]:
    blobs = {}
    at = start
    for entry in entries:
        end = at + entry["length"]
        blobs[entry["name"]] = Blob(
            codec=entry["codec"],
            dtype=entry["dtype"],
            stored=entry["stored"],
            shape=tuple(entry["shape"]),
            origin=entry["origin"],
            data=data[at:end],
        )
        at = end
    if at != len(data):
        raise ValueError("blobs do not fill the record")
    return blobs


def _mark_json(mark: FrameMark) -> dict[str, Any]:
    """Floats as hexadecimal text: exact, whatever reads them."""
    return {
        "x": mark.x,
        "y": mark.y,
        "alpha": mark.alpha,
        "sit": {name: float(each).hex() for name, each in asdict(mark.sit).items()},
        "logo_sha256": mark.logo_sha256,
        "lo": float(mark.rendering.lo).hex(),
        "hi": float(mark.rendering.hi).hex(),
        "inverted": mark.rendering.inverted,
        "minimum": mark.minimum,
        "maximum": mark.maximum,
        "stored_sha256": mark.stored_sha256,
    }


def _mark(header: dict[str, Any]) -> FrameMark:
    sit = {name: float.fromhex(each) for name, each in header["sit"].items()}
    rendering = Rendering(
        lo=float.fromhex(header["lo"]),
        hi=float.fromhex(header["hi"]),
        inverted=header["inverted"],
    )
    return FrameMark(
        x=header["x"],
        y=header["y"],
        alpha=header["alpha"],
        sit=SIT(**sit),
        logo_sha256=header["logo_sha256"],
        rendering=rendering,
        minimum=header["minimum"],
        maximum=header["maximum"],
        delta_unit=rendering.unit,
        stored_sha256=header["stored_sha256"],
    )
