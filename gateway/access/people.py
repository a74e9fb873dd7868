"""Which person somebody is, by certificate."""

from __future__ import annotations

from collections.abc import Sequence

from config.schema import Person
from gateway.access.pins import Pins
from gateway.errors import NotIdentified
from gateway.tls.certificates import PeerCertificate


class People:
    """The people of a site; certificates of files that changed are read again.

    Parameters
    ----------
    people
        As configured.

    Raises
    ------
    ConfigurationError
        A certificate file cannot be read.
    """

    def __init__(self, people: Sequence[Person]) -> None:
        self._people = {person.name: person for person in people}
        self._pins = {person.name: Pins(person.certificates) for person in people}

    def showing(self, certificate: PeerCertificate) -> Person:
        """Return who shows a certificate.

        Raises
        ------
        NotIdentified
            It is nobody's, or of more than one; ``reason`` says which.
        """
        known = [p for p in self._people.values() if self.holds(p.name, certificate)]
        if not known:
            raise NotIdentified("certificate-not-registered")
        if len(known) > 1:
            raise NotIdentified("certificate-of-several-people")
        return known[0]

    def named(self, name: str) -> Person | None:
        """Return a person by name."""
        return self._people.get(name)

    def holds(self, name: str, certificate: PeerCertificate) -> bool:
        """Whether a certificate is one of a person's."""
        return name in self._pins and certificate.sha256 in self._pins[name]
