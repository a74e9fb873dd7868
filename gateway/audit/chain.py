"""Lines of the trail: JSON that carries its own digest and the one before it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from typing_extensions import override

from gateway.errors import AuditBroken

Field = str | int | float | bool | None | list[str]
Entry = dict[str, Field]

GENESIS: Final = "0" * 64
OWN_FIELDS: Final = frozenset({"n", "at", "action", "outcome", "previous", "hash"})
MAX_LINE_BYTES: Final = 64 << 20
"""Far above any line that is written; a longer one is no line of a trail."""

_TAIL_START: Final = b',"hash":"'
_TAIL_END: Final = b'"}\n'
_TAIL_LENGTH: Final = len(_TAIL_START) + 64 + len(_TAIL_END)


@dataclass(frozen=True)
class Link:
    """A place in the chain: how many lines there are and the last one's hash."""

    count: int
    digest: str

    @override
    def __str__(self) -> str:
        return f"{self.count}:{self.digest}"


class Line(NamedTuple):
    """A checked line and its place."""

    link: Link
    entry: dict[str, Any]


START: Final = Link(0, GENESIS)


def chained(entry: Entry, last: Link) -> bytes:
    """Encode the line that comes after ``last``."""
    content = _encode({"n": last.count + 1, **entry, "previous": last.digest})
    digest = hashlib.sha256(content).hexdigest().encode("ascii")
    return content[:-2] + _TAIL_START + digest + _TAIL_END


def check(line: bytes, last: Link, path: Path) -> Line:
    """Check one line against the one before it.

    The digest is that of the octets of the line, so that any other octet, be it
    of a space, shows.

    Raises
    ------
    AuditBroken
        It is no line, not the next one, or was changed.
    """
    number = last.count + 1
    try:
        entry = json.loads(line)
        known = (entry["n"], entry["previous"], entry["hash"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuditBroken(
            f"Line {number} of {path} is not an audit line", path, number
        ) from error
    if known[:2] != (number, last.digest):
        raise AuditBroken(
            f"Line {number} of {path} does not follow the line before", path, number
        )
    digest = hashlib.sha256(line[:-_TAIL_LENGTH] + b"}\n").hexdigest()
    tail = _TAIL_START + digest.encode("ascii") + _TAIL_END
    if known[2] != digest or line[-_TAIL_LENGTH:] != tail:
        raise AuditBroken(f"Line {number} of {path} was changed", path, number)
    return Line(Link(number, digest), entry)


def link_of(line: bytes, path: Path) -> Link:
    """Read the place of a last line, unchecked.

    Raises
    ------
    AuditBroken
        It is not an audit line.
    """
    try:
        entry = json.loads(line)
        return Link(int(entry["n"]), str(entry["hash"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AuditBroken(
            f"The last line of {path} is not an audit line: move the file away "
            "and keep it as evidence, then start again",
            path,
        ) from error


def _encode(entry: Entry) -> bytes:
    text = json.dumps(entry, ensure_ascii=True, separators=(",", ":"), sort_keys=False)
    return text.encode("ascii") + b"\n"
