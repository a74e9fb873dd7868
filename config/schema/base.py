"""What all settings are made of."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

AETitle = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=16,
        pattern=r"^[\x20-\x5b\x5d-\x7e]+$",  # PS3.5 6.2: no backslash, no control
    ),
]

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]

Port = Annotated[int, Field(ge=0, le=65535)]  # 0: any free port, reported at start

Network = IPv4Network | IPv6Network

LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1"})
"""Hosts of connections that stay within this machine; "": a socket in a folder."""


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Fingerprint = Annotated[
    str, StringConstraints(pattern=r"^sha256:[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}$")
]
"""SHA-256 of a certificate's DER octets, as ``openssl x509 -fingerprint`` shows it."""

KeySource = Annotated[
    str, StringConstraints(pattern=r"^(file|env|credential|pkcs11):.+$")
]
"""Where a secret is: ``file:PATH`` (mode 0600), ``env:NAME``, ``credential:NAME``
(systemd's ``LoadCredential``), ``pkcs11:...`` (RFC 7512, master keys only)."""
