"""Who asks, as every decision gets it."""

from __future__ import annotations

from dataclasses import dataclass

from config.schema import Node
from gateway.tls.certificates import PeerCertificate


@dataclass(frozen=True, kw_only=True)
class Caller:
    """A node of this site, known by what it has shown.

    Attributes
    ----------
    node
        Which it is: this decides, never the AE title.
    ae_title
        As which it calls, one of the node's; empty where none is named.
    address
        IP address it calls from.
    certificate
        The one it has shown; None without TLS.
    user
        In whose name it says it asks (PS3.7 D.3.3.7). The node vouches for
        that, nobody else; None where it names none.
    """

    node: Node
    ae_title: str
    address: str
    certificate: PeerCertificate | None = None
    user: str | None = None

    @property
    def titles(self) -> frozenset[str]:
        """The AE titles that are the node itself."""
        return frozenset(self.node.ae_titles)
