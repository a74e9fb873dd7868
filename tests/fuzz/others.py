"""Entry points beside the network's: sealed files, the web's texts, site files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from config.load import load
from gateway.dicom.enclosed import open_enclosed
from gateway.dicom.restore import restore
from gateway.errors import (
    BadRequest,
    ConfigurationError,
    InvalidObject,
    InvalidSeal,
    KeyNotEnclosed,
    RecoveryRefused,
    Unprotectable,
)
from gateway.route.conditions import ConditionError, compile_condition
from gateway.sealing.envelope import open_bytes, seal_bytes
from gateway.sealing.master import LocalMasterKey
from gateway.store.find import Level
from gateway.vault.container import decode_record, encode_record
from gateway.vault.record import KeyRecord
from gateway.web.media import parse_accept, parse_media_type
from gateway.web.multipart import MultipartReader
from gateway.web.search import parse_search
from tests.fuzz import objects, seeds
from tests.fuzz.target import Entry, Target

MASTER: Final = LocalMasterKey(b"k" * 32)
VECTORS: Final = Path(__file__).parents[1] / "vectors"
BOUNDARY: Final = "fuzz-boundary"


def _record() -> Entry:
    """Key records, as they are once their seal is open."""

    def enter(data: bytes) -> None:
        try:
            record = decode_record(data)
        except InvalidSeal:
            return
        if isinstance(record, KeyRecord):
            with suppress(InvalidSeal, RecoveryRefused):
                restore(_no_file, record)

    return enter


def _no_file(_uid: str) -> bytes:
    raise RecoveryRefused("there is none")


@cache
def _records() -> Sequence[bytes]:
    from tests.gateway.object_cases import example_record

    kept = [encode_record(example_record(one)) for one in ("key", "pixels", "whole")]
    first = VECTORS / "record-v1-key.bin"
    return [*kept, first.read_bytes()] if first.exists() else kept


def _envelope() -> Entry:
    def enter(data: bytes) -> None:
        with suppress(InvalidSeal):
            open_bytes(data, MASTER)

    return enter


def _envelopes() -> Sequence[bytes]:
    return [seal_bytes(b"content" * 40, MASTER, b"context"), seal_bytes(b"", MASTER)]


def _enclosed() -> Entry:
    from tests.gateway.recipient_cases import recipient

    key = recipient("reader")

    def enter(data: bytes) -> None:
        with suppress(InvalidSeal, KeyNotEnclosed, Unprotectable):
            open_enclosed(data, key)

    return enter


@cache
def _enclosed_seeds() -> Sequence[bytes]:
    from tests.gateway.recipient_cases import with_key

    return [with_key("reader")]


class _Reads:
    """Reads a part as the store does."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, piece: bytes) -> None:
        self._data += piece

    def finish(self) -> None:
        READ(bytes(self._data))

    def abandon(self) -> None:
        self._data.clear()


READ: Final = objects._part10()


def _multipart() -> Entry:
    def begin(headers: Mapping[str, str]) -> _Reads:
        parse_media_type(headers.get("content-type", "application/dicom"))
        return _Reads()

    def enter(data: bytes) -> None:
        size = 1 + (data[0] if data else 0) * 8
        reader = MultipartReader(BOUNDARY, begin)
        try:
            for at in range(1, len(data), size):
                reader.feed(data[at : at + size])
            reader.close()
        except BadRequest:
            reader.abandon()

    return enter


@cache
def _bodies() -> Sequence[bytes]:
    files = [seeds.part10(each) for each in seeds.objects()[:2]]
    parts = b"".join(
        b"--%s\r\nContent-Type: application/dicom; transfer-syntax=%s\r\n\r\n%s\r\n"
        % (BOUNDARY.encode(), seeds.EXPLICIT.encode(), each)
        for each in files
    )
    body = parts + b"--%s--\r\n" % BOUNDARY.encode()
    return [b"\xff" + body, b"\x10" + body, b"\x10preamble\r\n" + body + b"epilogue"]


def _qido() -> Entry:
    """Parameters of a search, its Accept header and its media type."""
    levels = (Level.STUDY, Level.SERIES, Level.IMAGE)

    def enter(data: bytes) -> None:
        text = data[1:].decode("utf-8", "replace")
        first, _, rest = text.partition("\n")
        with suppress(BadRequest):
            parse_accept(first)
        with suppress(BadRequest):
            parse_media_type(first)
        pairs = parse_qsl(rest, keep_blank_values=True)
        level = levels[(data[0] if data else 0) % len(levels)]
        with suppress(BadRequest, InvalidObject):
            parse_search(pairs, level, {"StudyInstanceUID": "1.2.3"})

    return enter


def _searches() -> Sequence[bytes]:
    return [
        b"\1application/dicom+json;q=0.5, */*\nPatientName=N*&limit=5&offset=2",
        (
            b'\2multipart/related; type="application/dicom"; transfer-syntax=*\n'
            b"00080060=CT&includefield=all&fuzzymatching=true"
        ),
        (
            b"\3text/html\nReferencedSeriesSequence.SeriesInstanceUID=1.2.3,1.2.4"
            b"&StudyDate=20200101-20301231&includefield=PatientID&includefield=00101010"
        ),
    ]


def _site() -> Entry:
    folder = tempfile.mkdtemp(prefix="miad-fuzz-")
    path = Path(folder) / "site.toml"

    def enter(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(ConfigurationError):
            load(path, {})

    return enter


def _sites() -> Sequence[bytes]:
    example = Path(__file__).parents[2] / "config" / "site-example.toml"
    rule = b"""
data_directory = "data"
[receiver]
plain_port = 11112
[[nodes]]
name = "ct"
ae_titles = ["CT1"]
roles = ["store"]
plain = true
addresses = ["127.0.0.1/32"]
[[destinations]]
name = "out"
ae_title = "OUT"
host = "127.0.0.1"
port = 104
plain = true
[[rules]]
name = "all"
when = 'Modality == "CT"'
destinations = ["out"]
protect = true
"""
    return [rule, example.read_bytes()[: 1 << 13]]


def _condition() -> Entry:
    def enter(data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        try:
            condition = compile_condition(text)
        except ConditionError:
            return
        values: Any = {"Modality": "CT", "Rows": 512, "ImageType": ["A", "B"]}
        with suppress(ConditionError):
            condition.evaluate(values)

    return enter


def _conditions() -> Sequence[bytes]:
    return [text.encode() for text in objects.CONDITIONS]


TARGETS: Final = (
    Target(
        name="record",
        kind="sealed",
        enters="vault.container, codec, record_json, shell",
        build=_record,
        seeds=_records,
        longest=1 << 15,
    ),
    Target(
        name="envelope",
        kind="sealed",
        enters="sealing.head, slots, envelope",
        build=_envelope,
        seeds=_envelopes,
    ),
    Target(
        name="enclosed",
        kind="sealed",
        enters="enclosed.open_enclosed, recipients, signer",
        build=_enclosed,
        seeds=_enclosed_seeds,
        longest=1 << 15,
    ),
    Target(
        name="multipart",
        kind="web",
        enters="web.multipart, media, and each part as a file",
        build=_multipart,
        seeds=_bodies,
    ),
    Target(
        name="qido",
        kind="web",
        enters="web.search, media",
        build=_qido,
        seeds=_searches,
        longest=1 << 10,
    ),
    Target(
        name="site",
        kind="settings",
        enters="config.load, checks, explain",
        build=_site,
        seeds=_sites,
        mutator="lines",
        longest=1 << 13,
    ),
    Target(
        name="condition",
        kind="settings",
        enters="route.conditions: CEL",
        build=_condition,
        seeds=_conditions,
        longest=1 << 10,
    ),
)
