"""Syslog messages (RFC 5424) in frames of counted octets (RFC 5425)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FACILITY: Final = 10
"""Security and authorization messages (PS3.15 A.6)."""
NOTICE: Final = 5
WARNING: Final = 4

_BOM: Final = b"\xef\xbb\xbf"
_NOT_PRINTABLE = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, kw_only=True)
class Header:
    """What every message of a sender begins with.

    Attributes
    ----------
    message_id
        MSGID: ``DICOM+RFC3881``, or ``IHE+RFC-3881``.
    """

    hostname: str
    app_name: str
    process_id: str
    message_id: str


def frame(header: Header, at: str, xml: bytes, *, severity: int = NOTICE) -> bytes:
    """Return a message as it goes over TLS: its length, a space, and it.

    Parameters
    ----------
    at
        TIMESTAMP: ISO 8601 with zone and at most microseconds (RFC 5424 6.2.3).
    xml
        The audit message, UTF-8.
    """
    fields = (
        f"<{8 * FACILITY + severity}>1",
        at,
        _field(header.hostname, 255),
        _field(header.app_name, 48),
        _field(header.process_id, 128),
        _field(header.message_id, 32),
        "-",
    )
    message = " ".join(fields).encode("ascii") + b" " + _BOM + xml
    return b"%d %s" % (len(message), message)


def _field(text: str, longest: int) -> str:
    """Return a header field: printable ASCII, ``-`` where there is nothing."""
    return _NOT_PRINTABLE.sub("_", text)[:longest] or "-"
