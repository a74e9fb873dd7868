"""Which node of the configuration somebody is who calls (PS3.15 B.12).

With TLS the certificate says who it is, and the AE title only as what; an AE
title alone can be claimed by anybody. Without TLS a node must be allowed to
call so, and its title and address are all there is to know it by.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from config.schema import Node
from gateway.errors import NotIdentified
from gateway.tls.certificates import PeerCertificate, fingerprint_of


class Nodes:
    """The nodes of a site.

    Parameters
    ----------
    nodes
        As configured.

    Raises
    ------
    ConfigurationError
        A certificate file cannot be read.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = tuple(nodes)
        self._fingerprints = {
            node.name: frozenset(fingerprint_of(c) for c in node.certificates)
            for node in nodes
        }

    def calling(
        self, ae_title: str, address: str, certificate: PeerCertificate | None
    ) -> Node:
        """Return the node that calls with an AE title.

        Parameters
        ----------
        ae_title
            Calling AE title.
        address
            IP address it calls from.
        certificate
            The one it has shown; None without TLS.

        Raises
        ------
        NotIdentified
            It is none of the nodes; ``reason`` says why.
        """
        if certificate is None:
            return self._plain(ae_title, address)
        known = self._holding(certificate)
        titled = [node for node in known if ae_title in node.ae_titles]
        if not titled:
            raise NotIdentified("ae-title-not-of-certificate")
        return _from_address(titled, address)

    def showing(self, certificate: PeerCertificate, address: str) -> Node:
        """Return the node that shows a certificate, where no AE title is named.

        Raises
        ------
        NotIdentified
            It is none of the nodes; ``reason`` says why.
        """
        return _from_address(self._holding(certificate), address)

    def _holding(self, certificate: PeerCertificate) -> list[Node]:
        known = [node for node in self._nodes if self._holds(node, certificate)]
        if not known:
            raise NotIdentified("certificate-not-registered")
        return known

    def _holds(self, node: Node, certificate: PeerCertificate) -> bool:
        named = certificate.names & {n.lower() for n in node.certificate_names}
        return certificate.sha256 in self._fingerprints[node.name] or bool(named)

    def _plain(self, ae_title: str, address: str) -> Node:
        titled = [node for node in self._nodes if ae_title in node.ae_titles]
        if not titled:
            raise NotIdentified("ae-title-unknown")
        allowed = [node for node in titled if node.plain]
        if not allowed:
            raise NotIdentified("tls-required")
        return _from_address([n for n in allowed if n.addresses], address)


def _from_address(nodes: Sequence[Node], address: str) -> Node:
    caller = ip_address(address.partition("%")[0])
    if isinstance(caller, IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    for node in nodes:
        if not node.addresses or any(caller in network for network in node.addresses):
            return node
    raise NotIdentified("address-not-allowed")
