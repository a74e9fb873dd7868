"""Which node of the configuration somebody is who calls (PS3.15 B.12).

With TLS the certificate says who it is, and the AE title only as what; an AE
title alone can be claimed by anybody. Without TLS a node must be allowed to
call so, and its title and address are all there is to know it by.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address

from config.schema import Node
from gateway.access.caller import Caller
from gateway.access.pins import Pins
from gateway.errors import NotIdentified
from gateway.tls.certificates import PeerCertificate


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
        self._pins = {node.name: Pins(node.certificates) for node in nodes}
        self._names = {
            node.name: frozenset(map(_plain_name, node.certificate_names))
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
            It is none of the nodes, or could be several; ``reason`` says why.
        """
        return _from_address(self._holding(certificate), address)

    def caller(self, certificate: PeerCertificate, address: str) -> Caller:
        """Return who calls over HTTPS, where no AE title is named.

        Raises
        ------
        NotIdentified
            As `showing`.
        """
        return Caller(
            node=self.showing(certificate, address),
            ae_title="",
            address=address,
            certificate=certificate,
        )

    def _holding(self, certificate: PeerCertificate) -> list[Node]:
        """Return the nodes that a certificate belongs to.

        Where it is named itself, nodes that only share a name with it do not count.
        """
        pinned = [n for n in self._nodes if certificate.sha256 in self._pins[n.name]]
        if pinned:
            return pinned
        # A wildcard is no name of one machine: such names match nothing.
        shown = {_plain_name(n) for n in certificate.names if "*" not in n} - {""}
        named = [n for n in self._nodes if self._names[n.name] & shown]
        if not named:
            raise NotIdentified("certificate-not-registered")
        return named

    def _plain(self, ae_title: str, address: str) -> Node:
        titled = [node for node in self._nodes if ae_title in node.ae_titles]
        if not titled:
            raise NotIdentified("ae-title-unknown")
        allowed = [node for node in titled if node.plain]
        if not allowed:
            raise NotIdentified("tls-required")
        return _from_address([n for n in allowed if n.addresses], address)


def _plain_name(name: str) -> str:
    """Return a name as names are compared: in any case, with or without a dot."""
    return name.strip().rstrip(".").casefold()


def _from_address(nodes: Sequence[Node], address: str) -> Node:
    try:
        caller = ip_address(address.partition("%")[0])
    except ValueError as error:
        raise NotIdentified("address-not-allowed") from error
    if isinstance(caller, IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    there = [
        node
        for node in nodes
        if not node.addresses or any(caller in network for network in node.addresses)
    ]
    if not there:
        raise NotIdentified("address-not-allowed")
    if len(there) > 1:
        raise NotIdentified("certificate-of-several-nodes")
    return there[0]
