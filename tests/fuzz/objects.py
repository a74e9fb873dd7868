"""Entry points for data sets: attributes, pixels, and what is made of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Final

from pydicom.uid import UID

from gateway.dicom.deidentify import Deidentifier
from gateway.dicom.derive import encode_part10
from gateway.dicom.follow import Counterpart, follow
from gateway.dicom.header import read_attributes
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.parse import Bounds, data_set_offset, head_of, parse_object
from gateway.dicom.pixels import Reading, read_source
from gateway.dicom.retrieve_header import read_header, read_some
from gateway.dicom.retrieve_identifier import FIRST_BULK_TAG
from gateway.dicom.retrieve_match import matches
from gateway.errors import InvalidObject, StoredObjectDamaged, Unprotectable
from gateway.route.attributes import attributes_of
from gateway.route.conditions import ConditionError, compile_condition
from gateway.web.dicomjson import encode_json, without_bulk
from tests.fuzz import seeds
from tests.fuzz.target import Entry, Target

BOUNDS: Final = Bounds(max_inflated_bytes=1 << 22)
READING: Final = Reading(
    max_frames=8, windows=((40.0, 400.0),), one_bit="convert", bounds=BOUNDS
)
UIDS: Final = UidMapper(b"u" * 32)
CONDITIONS: Final = (
    'Modality == "CT" && BodyPartExamined.startsWith("CH")',
    'ImageType.exists(t, t == "DERIVED") || Rows > 512',
    'PatientName.contains("TEST") || SeriesNumber > 3 && RescaleSlope > 0.5',
    'calling_ae == "CT1" && StudyDate >= "20200101" && PixelSpacing[0] < 1.0',
)
LAST_TAG: Final = FIRST_BULK_TAG - 1
MATCHED: Final = ("PatientName", "StudyDate", "Modality", "ReferencedSeriesSequence")


def _attributes() -> Entry:
    def enter(data: bytes) -> None:
        with suppress(InvalidObject):
            read_attributes(io.BytesIO(seeds.part10(data)), seeds.syntax_of(data))

    return enter


def _data_set() -> Entry:
    """What the parser, rules, searches and JSON do with attributes."""
    from pydicom.datadict import tag_for_keyword

    rules = [compile_condition(text) for text in CONDITIONS]
    names = frozenset[str]().union(*(rule.keywords for rule in rules))
    facts = SimpleNamespace(calling_ae="CT1", called_ae="X", peer_address="::1")
    key = seeds.query("STUDY", PatientName="N*", StudyDate="20200101-", Modality="CT")
    tags = [tag_for_keyword(keyword) or 0 for keyword in MATCHED]

    def enter(data: bytes) -> None:
        part10 = seeds.part10(data)
        with suppress(InvalidObject, Unprotectable):
            attributes = attributes_of(
                head_of(io.BytesIO(part10), BOUNDS), facts, names
            )
            for rule in rules:
                with suppress(ConditionError):
                    rule.evaluate(attributes)
        with suppress(StoredObjectDamaged):
            header = read_header(io.BytesIO(part10), tags)
            matches(key, header)
        with suppress(Unprotectable):
            parse_object(data[1:], seeds.syntax_of(data), BOUNDS)
        with suppress(InvalidObject):
            syntax = UID(seeds.syntax_of(data))
            dataset = read_some(io.BytesIO(data[1:]), syntax, last_tag=LAST_TAG)
            encode_json(without_bulk(dataset))

    return enter


def _part10() -> Entry:
    """Files as a person names them on the command line."""

    def enter(data: bytes) -> None:
        with suppress(Unprotectable):
            offset, syntax = data_set_offset(data)
            parse_object(data[offset:], syntax, BOUNDS)
        with suppress(InvalidObject, Unprotectable):
            head_of(io.BytesIO(data), BOUNDS)

    return enter


def _pixels() -> Entry:
    """Image pixel attributes, encapsulation, and every frame by its codec."""

    def enter(data: bytes) -> None:
        with suppress(Unprotectable):
            source = read_source(data[1:], seeds.syntax_of(data), reading=READING)
            for frame in source.frames():
                assert frame.stored.shape == source.shape

    return enter


def _protect() -> Entry:
    """A whole protection, the engine's search left out: what is made comes back."""
    from gateway.stages.draft import Original
    from tests.gateway.object_cases import protect_one

    deidentifier = Deidentifier((), UIDS)

    def enter(data: bytes) -> None:
        original = Original(
            data=data[1:],
            kind="data-set",
            transfer_syntax_uid=seeds.syntax_of(data),
            name="",
        )
        with suppress(Unprotectable):
            made = protect_one(original, reading=READING)
            offset, syntax = data_set_offset(made.part10)
            dataset = parse_object(made.part10[offset:], syntax).dataset
            encode_part10(deidentifier.apply(dataset))

    return enter


def _follow() -> Entry:
    """Objects without pictures, made anew and de-identified."""
    deidentifier = Deidentifier((), UIDS)
    aim = SimpleNamespace(
        sop_instance_uid="2.25.4711", series_purpose="series", map_study=False
    )

    def resolve(original: str) -> tuple[Counterpart, ...]:
        return (
            Counterpart(
                sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
                sop_instance_uid=UIDS.map(original),
                series_instance_uid="2.25.1000",
                study_instance_uid="2.25.2000",
            ),
        )

    def enter(data: bytes) -> None:
        with suppress(Unprotectable):
            made = follow(
                data[1:], seeds.syntax_of(data), resolve=resolve, target=aim, uids=UIDS
            )
            encode_part10(made)
            encode_part10(deidentifier.apply(made))

    return enter


def _files() -> Sequence[bytes]:
    return [seeds.part10(each) for each in (*seeds.native(), *seeds.rle())]


def _codec(name: str, made: Callable[[], Sequence[bytes]]) -> Target:
    return Target(
        name=name,
        kind="codestream",
        enters="encapsulated, codestream, decode: the codec of each frame",
        build=_pixels,
        seeds=made,
        mutator="elements",
    )


def _data(name: str, enters: str, build: Callable[[], Entry], **more: object) -> Target:
    made = partial(
        Target,
        name=name,
        kind="data set",
        enters=enters,
        build=build,
        mutator="elements",
    )
    settings: dict[str, object] = {"seeds": seeds.objects} | more
    return made(**settings)  # type: ignore[arg-type]


TARGETS: Final = (
    _data("attributes", "header.read_attributes, elements", _attributes),
    _data(
        "dataset",
        "parse.head_of, parse_object, structure, route, retrieve_match, dicomjson",
        _data_set,
    ),
    _data(
        "part10",
        "parse.data_set_offset, part10.read_head",
        _part10,
        seeds=_files,
        mutator="octets",
    ),
    _data("pixels", "image_pixel, voi, tables, decode", _pixels, seeds=seeds.native),
    _data(
        "protect",
        "stages.protect, derive, overlays, repair, restore, deidentify",
        _protect,
        seeds=seeds.native,
    ),
    _data("follow", "follow, deidentify", _follow, seeds=seeds.followers),
    _codec("jpeg", seeds.jpeg),
    _codec("jpeg-ls", seeds.jpeg_ls),
    _codec("jpeg-2000", seeds.jpeg_2000),
    _codec("rle", seeds.rle),
)
