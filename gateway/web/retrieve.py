"""WADO-RS (PS3.18 10.4): objects byte for byte, and their attributes."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Final

import structlog
from pydicom.uid import UID
from sqlalchemy.exc import SQLAlchemyError

from gateway.audit.log import AuditLog, Field
from gateway.audit.personal import patients_of, patients_with
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.retrieve_header import read_some
from gateway.dicom.retrieve_holdings import Offered, Selected
from gateway.dicom.retrieve_identifier import FIRST_BULK_TAG
from gateway.errors import GatewayError, RequestRefused
from gateway.store.part10 import FileMeta, encode_head, read_head
from gateway.web.dicomjson import encode_json, without_bulk
from gateway.web.media import (
    ANY_SYNTAX,
    DICOM,
    MULTIPART,
    parse_accept,
)
from gateway.web.multipart import last_boundary, part_head

LOG = structlog.get_logger(component="web")

CHUNK_BYTES: Final = 1 << 18
FAILURES: Final = (GatewayError, OSError, SQLAlchemyError)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """In what form objects are taken.

    Attributes
    ----------
    multipart
        Each a part of one body; False: one alone, as it is.
    syntaxes
        Transfer syntaxes; empty or ``*``: as they are stored.
    """

    multipart: bool
    syntaxes: frozenset[str]

    def takes(self, transfer_syntax_uid: str) -> bool:
        """Whether an object in a transfer syntax is taken."""
        if not self.syntaxes or ANY_SYNTAX in self.syntaxes:
            return True
        return transfer_syntax_uid in self.syntaxes


def wanted_of(accept: str, *, single: bool) -> Wanted:
    """Read in what form a client takes objects.

    Parameters
    ----------
    accept
        The Accept header; empty where there is none.
    single
        Whether one instance is asked for: then it may come alone.

    Raises
    ------
    RequestRefused
        In none that there is here (406).
    """
    syntaxes: dict[bool, set[str]] = {}
    order: list[bool] = []
    for one in parse_accept(accept or "*/*"):
        if one.name in {"*/*", "multipart/*", MULTIPART}:
            # RFC 2387 wants the type; who leaves it out gets what there is.
            if one.name == MULTIPART and one.root_type not in {"", DICOM}:
                continue
            multipart = True
        elif single and one.name in {DICOM, "application/*"}:
            multipart = False
        else:
            continue
        order.append(multipart)
        syntax = one.parameters.get("transfer-syntax", ANY_SYNTAX)
        syntaxes.setdefault(multipart, set()).add(syntax)
    if not order:
        raise RequestRefused(
            406,
            "Objects leave as application/dicom in multipart/related, in the "
            "transfer syntax they are stored in; never rendered, never re-encoded",
        )
    return Wanted(multipart=order[0], syntaxes=frozenset(syntaxes[order[0]]))


@dataclass
class Delivery:
    """One retrieval under way, and what the trail says of it.

    Attributes
    ----------
    audit
        The trail.
    who
        Who asks, as fields of a line.
    selected
        What is sent.
    """

    audit: AuditLog
    who: Mapping[str, Field]
    selected: Selected
    completed: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def items(self) -> Sequence[Offered]:
        """The objects."""
        return self.selected.items

    def begin(self, level: str) -> None:
        """Record who is given what, and count it.

        Raises
        ------
        OSError
            The trail cannot be written: then nothing may leave.
        GatewayError
            So much may not leave.
        """
        self.selected.count_as_given()
        self.audit.record(
            "get",
            "success",
            **self.who,
            level=level,
            studies=sorted({item.study_instance_uid for item in self.items}),
            instances=len(self.items),
            personal={"patients": patients_of(self.items)},
        )

    def end(self) -> None:
        """Record how it ended."""
        whole = self.completed == len(self.items)
        self.audit.note(
            "get-end",
            "success" if whole else "failure",
            **self.who,
            completed=self.completed,
            failed_uids=list(self.failed),
            personal={
                "patients": patients_of(self.items[: self.completed]),
                "failed": patients_with(self.items, self.failed),
            },
        )

    def load(self, item: Offered) -> OutboundObject:
        """Read one object, verified.

        Raises
        ------
        RequestRefused
            It is not what was recorded, or cannot be read: nothing of it leaves.
        """
        try:
            return item.outbound()
        except FAILURES as error:
            self.failed.append(item.sop_instance_uid)
            LOG.warning(
                "object not sent",
                sop_instance_uid=item.sop_instance_uid,
                error=type(error).__name__,
            )
            self.audit.note(
                "recover",
                "failure",
                **self.who,
                sop_instance_uid=item.sop_instance_uid,
                error=type(error).__name__,
                personal={"patients": patients_of([item])},
            )
            raise RequestRefused(
                500, f"{item.sop_instance_uid} cannot be given: it is not whole"
            ) from error


Encode = Callable[[OutboundObject, bool], Iterator[bytes]]


def pieces_of(
    delivery: Delivery, encode: Encode, ending: bytes
) -> Generator[bytes, None, None]:
    """Yield the body of an answer; the first object is read before it begins.

    Raises
    ------
    RequestRefused
        The first object cannot be given.
    """
    try:
        first = delivery.load(delivery.items[0])
    except RequestRefused:
        delivery.end()
        raise
    made = _pieces(delivery, first, encode, ending)
    next(made)  # to where it begins: from here on its end is recorded
    return made


def _pieces(
    delivery: Delivery, first: OutboundObject, encode: Encode, ending: bytes
) -> Generator[bytes, None, None]:
    try:
        yield b""
        for number, item in enumerate(delivery.items):
            outbound = first if number == 0 else delivery.load(item)
            yield from encode(outbound, number == 0)
            delivery.completed += 1
        yield ending
    finally:
        delivery.end()


def parts(boundary: str) -> tuple[Encode, bytes]:
    """Return how objects become parts, and what ends them."""

    def encode(outbound: OutboundObject, first: bool) -> Iterator[bytes]:
        syntax = outbound.transfer_syntax_uid
        kind = {"Content-Type": f"{DICOM};transfer-syntax={syntax}"}
        yield part_head(boundary, kind, first=first)
        yield from part10(outbound)

    return encode, last_boundary(boundary)


def alone(outbound: OutboundObject, _first: bool) -> Iterator[bytes]:
    """Yield one object by itself."""
    return part10(outbound)


def attributes(outbound: OutboundObject, first: bool) -> Iterator[bytes]:
    """Yield the attributes of an object as one of a JSON array."""
    with _data_set(outbound) as stream:
        dataset = read_some(
            stream,
            UID(outbound.transfer_syntax_uid),
            last_tag=FIRST_BULK_TAG - 1,
        )
    yield b"[" if first else b","
    yield encode_json(without_bulk(dataset))


JSON_END: Final = b"]"
MULTIPART_DICOM: Final = f'{MULTIPART}; type="{DICOM}"; boundary='


def part10(outbound: OutboundObject) -> Iterator[bytes]:
    """Yield an object as a Part 10 file (PS3.10 7.1).

    A file of the store as it is; received bytes behind a head of their own.
    """
    data = outbound.data
    if callable(data):
        with data() as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
        return
    yield encode_head(
        FileMeta(
            sop_class_uid=outbound.sop_class_uid,
            sop_instance_uid=outbound.sop_instance_uid,
            transfer_syntax_uid=outbound.transfer_syntax_uid,
        )
    )
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


def _data_set(outbound: OutboundObject) -> BinaryIO:
    """Open an object at the first byte of its data set."""
    data = outbound.data
    if not callable(data):
        return io.BytesIO(data)
    stream = data()
    read_head(stream)
    return stream
