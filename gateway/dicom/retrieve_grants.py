"""Where a node may have objects sent, on one AE title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from config.schema import MoveDestination, Site
from gateway.errors import MoveNotAuthorised, UnknownDestination


@dataclass(frozen=True, kw_only=True)
class Grants:
    """The nodes that may retrieve from an AE title, and to where.

    Attributes
    ----------
    ae_title
        The title that answers, and that calls the destinations.
    allowed
        Calling AE title -> the titles it may have objects sent to.
    destinations
        The addresses of the AE titles that C-MOVE may name.
    """

    ae_title: str
    allowed: Mapping[str, frozenset[str]]
    destinations: Sequence[MoveDestination]

    def destination(self, calling_ae: str, title: str) -> MoveDestination:
        """Return where to send for a node.

        Raises
        ------
        UnknownDestination
            No such AE title is configured.
        MoveNotAuthorised
            The calling node may not have objects sent there.
        """
        known = {d.ae_title: d for d in self.destinations}
        if title not in known:
            raise UnknownDestination("The move destination is not configured here")
        if title not in self.allowed.get(calling_ae, ()):
            raise MoveNotAuthorised("This node may not have objects sent there")
        return known[title]


def for_readers(site: Site) -> Grants:
    """Return where those who read protected objects may have them sent."""
    return Grants(
        ae_title=site.receiver.ae_title,
        allowed={
            title: frozenset(node.move_destinations or (title,))
            for node in site.nodes
            if "read" in node.roles
            for title in node.ae_titles
        },
        destinations=site.recovery.destinations,
    )


def for_recovery(site: Site) -> Grants:
    """Return where those who recover originals may have them sent."""
    allowed: dict[str, frozenset[str]] = {}
    for node in site.nodes:
        grants = [grant for grant in site.grants if node.name in grant.nodes]
        for title in node.ae_titles:
            places = [grant.move_destinations or (title,) for grant in grants]
            allowed[title] = frozenset().union(*places)
    return Grants(
        ae_title=site.recovery.ae_title,
        allowed=allowed,
        destinations=site.recovery.destinations,
    )
