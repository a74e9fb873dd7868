"""Where a master key is in a token: ``pkcs11:`` URIs (RFC 7512)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from typing_extensions import override

from gateway.errors import ConfigurationError

PROXIES: Final = (
    "/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib/aarch64-linux-gnu/p11-kit-proxy.so",
    "/usr/lib64/p11-kit-proxy.so",
    "/usr/lib/p11-kit-proxy.so",
)
"""p11-kit's module, which has all that are installed; used if none is named."""

PATH_ATTRIBUTES: Final = frozenset({"token", "serial", "object", "id", "type"})
QUERY_ATTRIBUTES: Final = frozenset({"module-path", "pin-source"})


@dataclass(frozen=True, kw_only=True)
class TokenUri:
    """Where a master key is, after RFC 7512.

    Attributes
    ----------
    token, serial
        Label and serial number of the token; '' for any.
    label, key_id
        CKA_LABEL and CKA_ID of the key; empty for any.
    module
        Shared library of the token.
    pin_source
        Source of the PIN (``file:``, ``env:`` or ``credential:``); '' for none.
    """

    token: str
    serial: str
    label: str
    key_id: bytes
    module: Path
    pin_source: str

    @override
    def __str__(self) -> str:
        """Say token and key, for messages."""
        return f"token {self.token or self.serial!r}, key {self.label or self.key_id!r}"


def parse_uri(uri: str, base_directory: Path) -> TokenUri:
    """Read a ``pkcs11:`` URI.

    Parameters
    ----------
    uri
        As in the settings.
    base_directory
        From which a relative module path is meant.

    Raises
    ------
    ConfigurationError
        It names no token or key, or has attributes that are not understood.
    """
    path, _, query = uri.removeprefix("pkcs11:").partition("?")
    named = _attributes(path, ";", PATH_ATTRIBUTES)
    asked = _attributes(query, "&", QUERY_ATTRIBUTES)
    if not (named.get("token") or named.get("serial")):
        raise _wrong_uri("names no token; add token=LABEL")
    if not (named.get("object") or named.get("id")):
        raise _wrong_uri("names no key; add object=LABEL")
    if named.get("type", b"secret-key") != b"secret-key":
        raise _wrong_uri("has a type other than secret-key")
    module = asked.get("module-path", b"").decode() or _proxy()
    return TokenUri(
        token=named.get("token", b"").decode(),
        serial=named.get("serial", b"").decode(),
        label=named.get("object", b"").decode(),
        key_id=named.get("id", b""),
        module=base_directory / module,
        pin_source=asked.get("pin-source", b"").decode(),
    )


def _attributes(text: str, separator: str, known: frozenset[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if name == "pin-value":
            raise _wrong_uri("must not hold the PIN itself; use pin-source=file:PATH")
        if name not in known or name in found or not equals:
            # The value is not shown: it may be a PIN under a misspelt name.
            raise _wrong_uri(
                f"has a part {name[:20]!r} that is not understood or comes twice; "
                f"known are {', '.join(sorted(known))}"
            )
        found[name] = unquote_to_bytes(value)
        try:
            found[name].decode("utf-8" if name != "id" else "latin-1")
        except UnicodeDecodeError:
            raise _wrong_uri(f"has a {name} that is not UTF-8") from None
    return found


def _wrong_uri(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the pkcs11: source of a master key {what} "
        "(pkcs11:token=T;object=K?module-path=/usr/lib/M.so&pin-source=file:PIN)"
    )


def _proxy() -> str:
    for path in PROXIES:
        if Path(path).exists():
            return path
    raise _wrong_uri("names no module, and p11-kit is not installed; add module-path=")
