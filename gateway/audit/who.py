"""Who asks: the fields of a line that name a caller, everywhere the same."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.tls.certificates import shown


class Caller(Protocol):
    """An association request, or what else comes from a node."""

    @property
    def calling_ae(self) -> str:
        """Its AE title."""

    @property
    def called_ae(self) -> str:
        """The AE title it calls."""

    @property
    def peer_address(self) -> str:
        """Its IP address."""


def who(call: Caller) -> dict[str, str]:
    """Return the fields that name a caller.

    AE titles and address always; the node of the configuration, the certificate
    it showed (fingerprint, as settings take it, and subject) and the user it
    speaks for where known.
    """
    fields = {
        "calling_ae": call.calling_ae,
        "called_ae": call.called_ae,
        "peer_address": call.peer_address,
    }
    certificate: Any = getattr(call, "certificate", None)
    node: Any = getattr(call, "node", None)
    known = {
        "node": getattr(node, "name", node),
        "certificate": shown(certificate.sha256) if certificate else None,
        "subject": getattr(certificate, "subject", None),
        "user": getattr(call, "user", None),
    }
    return fields | {name: str(value) for name, value in known.items() if value}
