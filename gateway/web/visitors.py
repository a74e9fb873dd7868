"""Who asks over HTTPS: a node or a person, by certificate, and nobody else."""

from __future__ import annotations

from dataclasses import dataclass

from config.schema import Node, Person
from gateway.access.access import Access
from gateway.access.caller import Caller
from gateway.errors import NotIdentified
from gateway.tls.certificates import PeerCertificate
from gateway.tls.identity import TlsIdentity
from gateway.web.doorman import Connection


@dataclass(frozen=True, kw_only=True)
class NodeVisitor:
    """A machine that asks.

    Attributes
    ----------
    caller
        As grants know it.
    """

    caller: Caller

    @property
    def node(self) -> Node:
        """As configured."""
        return self.caller.node

    @property
    def address(self) -> str:
        """Where it asks from."""
        return self.caller.address

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
    access
        Holds the tables of both.
    identity
        Says what has been revoked since.
    """

    def __init__(self, access: Access, identity: TlsIdentity) -> None:
        self._access = access
        self._identity = identity

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
        person = self._person(certificate)
        try:
            caller = self._access.nodes.caller(certificate, address)
        except NotIdentified:
            if person is None:
                raise
            return PersonVisitor(
                person=person, address=address, certificate=certificate
            )
        if person is not None:
            raise NotIdentified("certificate-of-node-and-person")
        return NodeVisitor(caller=caller)

    def _person(self, certificate: PeerCertificate) -> Person | None:
        try:
            return self._access.people.showing(certificate)
        except NotIdentified as error:
            if error.reason == "certificate-not-registered":
                return None
            raise
