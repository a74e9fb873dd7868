"""Media types as HTTP headers name them (RFC 9110 12.5.1, PS3.18 8.7)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import BadRequest

DICOM: Final = "application/dicom"
DICOM_JSON: Final = "application/dicom+json"
JSON: Final = "application/json"
MULTIPART: Final = "multipart/related"
ANY_SYNTAX: Final = "*"

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_TYPE = re.compile(rf"\s*({_WORD}/{_WORD})\s*")
# Devices send media types and UIDs unquoted in parameters, slash and all.
_PARAMETER = re.compile(rf';\s*({_WORD})\s*=\s*({_QUOTED}|[^\s;,"]*)\s*')


@dataclass(frozen=True)
class MediaType:
    """A media type with its parameters, both in lower case but for the values."""

    name: str
    parameters: Mapping[str, str]

    @property
    def weight(self) -> float:
        """How much it is wanted (``q``), 0 to 1."""
        try:
            return max(0.0, min(1.0, float(self.parameters.get("q", "1"))))
        except ValueError:
            return 0.0

    @property
    def root_type(self) -> str:
        """What the parts of a multipart are, in lower case."""
        return self.parameters.get("type", "").lower()


def parse_media_type(text: str) -> MediaType:
    """Read one media type.

    Raises
    ------
    BadRequest
        It is none.
    """
    found, end = _one(text, 0)
    if text[end:].strip():
        raise BadRequest("The media type cannot be read")
    return found


def parse_accept(text: str) -> Sequence[MediaType]:
    """Read an Accept header; the most wanted first, what is not wanted left out.

    Raises
    ------
    BadRequest
        It cannot be read.
    """
    found: list[MediaType] = []
    at = 0
    while at < len(text):
        one, at = _one(text, at)
        found.append(one)
        if at < len(text) and text[at] != ",":
            raise BadRequest("The Accept header cannot be read")
        at += 1
    wanted = [one for one in found if one.weight > 0]
    return sorted(wanted, key=lambda one: -one.weight)


def accepts_json(accept: str) -> bool:
    """Whether a client takes DICOM JSON; one that says nothing does."""
    names = {one.name for one in parse_accept(accept or "*/*")}
    return not names.isdisjoint({DICOM_JSON, JSON, "application/*", "*/*"})


def _one(text: str, at: int) -> tuple[MediaType, int]:
    name = _TYPE.match(text, at)
    if name is None:
        raise BadRequest("A media type cannot be read")
    at = name.end()
    parameters: dict[str, str] = {}
    while (found := _PARAMETER.match(text, at)) is not None:
        parameters.setdefault(found[1].lower(), _plain(found[2]))
        at = found.end()
    return MediaType(name[1].lower(), parameters), at


def _plain(value: str) -> str:
    if value.startswith('"'):
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
