"""What each root of DICOMweb lists and gives to a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from gateway.dicom.retrieve_holdings import Offered, ProtectedObjects, Rows
from gateway.store.find import FindKeys, Level
from gateway.web.visitors import NodeVisitor


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The objects that one request selects.

    Attributes
    ----------
    items
        In a stable order.
    outside
        How many more there are that this node may not have: for the trail only.
    release
        Called before the first of them leaves; raises a GatewayError where they
        may not.
    """

    items: Sequence[Offered]
    outside: int = 0
    release: Callable[[], None] = lambda: None


class Shelf(Protocol):
    """What one root lists and gives."""

    def find(self, visitor: NodeVisitor, keys: FindKeys, level: Level) -> Rows:
        """Return what matches, of what a node may see."""

    def open(self, row: dict[str, Any]) -> BinaryIO:
        """Open the file of the first object of what was found."""

    def select(self, visitor: NodeVisitor, keys: FindKeys) -> Selected:
        """Return the objects that keys select, of what a node may have."""


class ProtectedShelf:
    """Protected objects: all that may read may have all."""

    def __init__(self, holdings: ProtectedObjects) -> None:
        self._holdings = holdings

    def find(self, _visitor: NodeVisitor, keys: FindKeys, level: Level) -> Rows:
        """Return what matches."""
        return self._holdings.find(keys, level)

    def open(self, row: dict[str, Any]) -> BinaryIO:
        """Open the file of a protected object."""
        return self._holdings.open(row)

    def select(self, _visitor: NodeVisitor, keys: FindKeys) -> Selected:
        """Return the objects that keys select."""
        return Selected(items=self._holdings.matching(keys))
