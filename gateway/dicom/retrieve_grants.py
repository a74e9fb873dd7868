"""Where a node may have objects sent, on one AE title."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from config.schema import MoveDestination, Site
from gateway.access.access import Access
from gateway.access.caller import Caller
from gateway.errors import MoveNotAuthorised, UnknownDestination


@dataclass(frozen=True, kw_only=True)
class Grants:
    """To where nodes may have objects sent from an AE title.

    Attributes
    ----------
    ae_title
        The title that answers, and that calls the destinations.
    allows
        Whether a node may have anything sent to a title, now.
    destinations
        The addresses of the AE titles that C-MOVE may name.
    """

    ae_title: str
    allows: Callable[[Caller, str], bool]
    destinations: Sequence[MoveDestination]

    def destination(self, caller: Caller, title: str) -> MoveDestination:
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
        if not self.allows(caller, title):
            raise MoveNotAuthorised("This node may not have objects sent there")
        return known[title]


def for_readers(site: Site) -> Grants:
    """Return where those who read protected objects may have them sent."""
    return Grants(
        ae_title=site.receiver.ae_title,
        allows=lambda caller, title: (
            title in (caller.node.move_destinations or caller.titles)
        ),
        destinations=site.recovery.destinations,
    )


def for_recovery(site: Site, access: Access) -> Grants:
    """Return where those who recover originals may have them sent."""
    return Grants(
        ae_title=site.recovery.ae_title,
        allows=access.may_move,
        destinations=site.recovery.destinations,
    )
