"""Where a node may have objects sent, on one AE title."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config.schema import MoveDestination, RetrievingNode
from gateway.errors import MoveNotAuthorised, UnknownDestination


@dataclass(frozen=True, kw_only=True)
class Grants:
    """The nodes that may retrieve from an AE title, and to where.

    Attributes
    ----------
    ae_title
        The title that answers, and that calls the destinations.
    nodes
        Who may ask.
    destinations
        The addresses of the AE titles that C-MOVE may name.
    """

    ae_title: str
    nodes: Sequence[RetrievingNode]
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
        nodes = [n for n in self.nodes if n.ae_title == calling_ae]
        if not any(title in _granted(node) for node in nodes):
            raise MoveNotAuthorised("This node may not have objects sent there")
        return known[title]


def _granted(node: RetrievingNode) -> tuple[str, ...]:
    return node.move_destinations or (node.ae_title,)
