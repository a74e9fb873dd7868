"""Key records as octets: a compressed JSON header, then blobs.

Version 2 is written; version 1 is read as well (docs/record-format.md).
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InvalidFrame, InvalidParameter
from gateway.errors import InvalidSeal
from gateway.store.octets import Joined, after, part_of, sha256_of
from gateway.vault.codec import LEVEL, pack_bytes, unpack_zstd
from gateway.vault.container_custody import custody_blobs, custody_json, read_custody
from gateway.vault.container_v1 import PLAIN, read_version_1
from gateway.vault.layout import PixelLayout
from gateway.vault.record import KeyRecord, RecordLink, RecordPart
from gateway.vault.record_json import blob_json, mark_json, read_blob, read_mark

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.store.octets import Octets
    from gateway.vault.codec import Blob

MAGIC: Final = b"MIADKEY"
VERSION: Final = 2
UNKNOWN: Final = "octets are not a key record of a known version"
NEWER: Final = (
    "the key record is of version {}, and this program reads versions up to {}: "
    "a newer version wrote it"
)
HEAD: Final = struct.Struct("<7sBI")
"""Magic, version, length of the header."""


def encode_record(record: KeyRecord | RecordLink) -> bytes:
    """Octets of a record, or of a link to one, as a whole; see `encoded_record`."""
    return encoded_record(record)[:]


def encoded_record(record: KeyRecord | RecordLink) -> Joined:
    """Octets of a record, or of a link to one; its blobs are read when asked for.

    Equal records have equal octets. Blobs with equal octets are kept once:
    neighbouring frames may carry the same patch.
    """
    if isinstance(record, RecordLink):
        return _join({"link": asdict(record)}, [])
    blobs = dict(custody_blobs(record.custody))
    digests = {name: sha256_of(blob.data) for name, blob in blobs.items()}
    unique = {digests[name]: blob.data for name, blob in blobs.items()}
    places = {digest: place for place, digest in enumerate(unique)}
    header = {keyword: getattr(record, keyword) for keyword in PLAIN}
    header["parts"] = [asdict(part) for part in record.parts]
    header["marks"] = [mark_json(mark) for mark in record.marks]
    header["custody"] = custody_json(record.custody)
    header["blobs"] = [
        blob_json(name, blob) | {"at": places[digests[name]]}
        for name, blob in blobs.items()
    ]
    header["lengths"] = [len(data) for data in unique.values()]
    return _join(header, unique.values())


def decode_record(data: Octets) -> KeyRecord | RecordLink:
    """Record, or link to one, of octets; its blobs are read when asked for.

    Raises
    ------
    InvalidSeal
        These are not the octets of a record this version can read.
    """
    try:
        return _decode(data)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidSeal(UNKNOWN) from error
    except (struct.error, InvalidFrame, InvalidParameter) as error:
        raise InvalidSeal(UNKNOWN) from error


def decode_key_record(data: Octets) -> KeyRecord:
    """Record of octets that must not be a link to one.

    Raises
    ------
    InvalidSeal
        They are not the octets of a record this version can read.
    """
    record = decode_record(data)
    if isinstance(record, RecordLink):
        raise InvalidSeal(UNKNOWN)
    return record


def _join(header: dict[str, Any], blobs: Iterable[Octets]) -> Joined:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    packed = pack_bytes(text, level=LEVEL).data
    head = HEAD.pack(MAGIC, VERSION, len(packed))
    return Joined([head, packed[:], *blobs])


def _decode(data: Octets) -> KeyRecord | RecordLink:
    magic, version, length = HEAD.unpack(data[: HEAD.size])
    end = HEAD.size + length
    packed = data[HEAD.size : end]
    if magic != MAGIC or len(packed) != length:
        raise ValueError("not a record")
    if version == 1:
        return read_version_1(packed, after(data, end))
    if version > VERSION:
        raise InvalidSeal(NEWER.format(version, VERSION))
    if version != VERSION:
        raise ValueError("not a record of this version")
    header: dict[str, Any] = json.loads(unpack_zstd(packed))
    if "link" in header:
        return RecordLink(**header["link"])
    return _record(header, after(data, end))


def _record(header: dict[str, Any], data: Octets) -> KeyRecord:
    blobs = _read_blobs(header, data)
    marks = tuple(read_mark(each) for each in header["marks"])
    parts = tuple(_part(each) for each in header["parts"])
    if not parts:
        raise ValueError("a record of no object")
    return KeyRecord(
        **{keyword: header[keyword] for keyword in PLAIN},
        parts=parts,
        marks=marks,
        custody=read_custody(header["custody"], blobs, len(marks)),
    )


def _part(values: dict[str, Any]) -> RecordPart:
    layout = values["layout"]
    return RecordPart(
        uid=values["uid"],
        layout=None if layout is None else PixelLayout(**layout),
        sha256=values["sha256"],
    )


def _read_blobs(header: dict[str, Any], data: Octets) -> dict[str, Blob]:
    pieces, at = [], 0
    for length in header["lengths"]:
        pieces.append(part_of(data, at, at + length))
        at += length
    if at != len(data):
        raise ValueError("blobs do not fill the record")
    return {
        entry["name"]: read_blob(entry, pieces[entry["at"]])
        for entry in header["blobs"]
    }
