"""Who asks: the fields of a line that name a caller, everywhere the same."""

from __future__ import annotations

from typing import Protocol

from config.schema import Node
from gateway.tls.certificates import PeerCertificate, shown


class Call(Protocol):
    """An association request, or what else comes from a node."""

    @property
    def calling_ae(self) -> str:
        """AE title it calls as."""

    @property
    def called_ae(self) -> str:
        """AE title it calls."""

    @property
    def peer_address(self) -> str:
        """IP address it calls from."""

    @property
    def certificate(self) -> PeerCertificate | None:
        """What it has shown; None without TLS."""


class Admitted(Protocol):
    """Who was let in."""

    @property
    def node(self) -> Node:
        """Which node of the configuration it is."""

    @property
    def user(self) -> str | None:
        """In whose name it says it asks."""


def who(call: Call, admitted: Admitted | None = None) -> dict[str, str]:
    """Return the fields that name a caller.

    AE titles and address always; the certificate it showed (fingerprint, as
    settings take it, and subject) with TLS; the node of the configuration and the
    user it speaks for once it is admitted.
    """
    fields = {
        "calling_ae": call.calling_ae,
        "called_ae": call.called_ae,
        "peer_address": call.peer_address,
    }
    if call.certificate is not None:
        fields["certificate"] = shown(call.certificate.sha256)
        fields["subject"] = call.certificate.subject
    if admitted is not None:
        fields["node"] = admitted.node.name
        if admitted.user is not None:
            fields["user"] = admitted.user
    return fields
