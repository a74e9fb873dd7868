"""Who asks over HTTPS: a node or a person, by certificate, and nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config.schema import Node, Person
from gateway.access.nodes import Nodes
from gateway.errors import NotIdentified
from gateway.tls.certificates import PeerCertificate, fingerprint_of
from gateway.tls.identity import TlsIdentity
from gateway.web.doorman import Connection


@dataclass(frozen=True, kw_only=True)
class NodeVisitor:
    """A machine that asks.

    Attributes
    ----------
    node
        As configured.
    address
        Where it asks from.
    certificate
        The one it has shown.
    """

    node: Node
    address: str
    certificate: PeerCertificate

    @property
    def ae_title(self) -> str:
        """Under which it stands in the trail, and in rules: its first."""
        return self.node.ae_titles[0]


@dataclass(frozen=True, kw_only=True)
class PersonVisitor:
    """Someone at a browser.

    Attributes
    ----------
    person
        As configured.
    address
        Where the browser is.
    certificate
        The one it has shown.
    """

    person: Person
    address: str
    certificate: PeerCertificate

    def may(self, *roles: str) -> bool:
        """Whether the person has one of some roles."""
        return not set(roles).isdisjoint(self.person.roles)


Visitor = NodeVisitor | PersonVisitor


class Registry:
    """The nodes and people of a site, by what they show.

    Parameters
    ----------
    nodes
        The table of nodes.
    people
        As configured.
    identity
        Says what has been revoked since.

    Raises
    ------
    ConfigurationError
        A certificate file cannot be read.
    """

    def __init__(
        self, nodes: Nodes, people: Sequence[Person], identity: TlsIdentity
    ) -> None:
        self._nodes = nodes
        self._identity = identity
        self._people = tuple(
            (person, frozenset(fingerprint_of(c) for c in person.certificates))
            for person in people
        )

    def is_known(self, certificate: PeerCertificate, address: str) -> bool:
        """Whether it is a node or a person of this site."""
        try:
            self._visitor(certificate, address)
        except NotIdentified:
            return False
        return True

    def visitor(self, connection: Connection) -> Visitor:
        """Return who asks, now: a connection may outlive what it was made with.

        Raises
        ------
        NotIdentified
            The certificate is nobody's, or no longer good; ``reason`` says why.
        """
        shown = connection.shown
        if shown.peer.not_after <= self._identity.now():
            raise NotIdentified("certificate-expired")
        if self._identity.material.revoked(shown.certificate):
            raise NotIdentified("certificate-revoked")
        return self._visitor(shown.peer, connection.address)

    def _visitor(self, certificate: PeerCertificate, address: str) -> Visitor:
        for person, certificates in self._people:
            if certificate.sha256 in certificates:
                return PersonVisitor(
                    person=person, address=address, certificate=certificate
                )
        node = self._nodes.showing(certificate, address)
        return NodeVisitor(node=node, address=address, certificate=certificate)
