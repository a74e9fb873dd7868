"""Private attributes that a data set itself says are safe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.dicom.lenient import items, numbers, text

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag


@dataclass(frozen=True)
class SafePrivate:
    """Private blocks known to identify no one.

    Attributes
    ----------
    blocks
        From group and private creator to the safe elements of the block (their
        last octet); None: all of them.
    """

    blocks: dict[tuple[int, str], frozenset[int] | None]

    def holds(self, dataset: Dataset, tag: BaseTag) -> bool:
        """Whether an attribute, or the creator of a block, may be kept."""
        if tag.is_private_creator:
            return (tag.group, text_at(dataset, tag)) in self.blocks
        creator = text_at(dataset, tag.group << 16 | tag.element >> 8)
        block = (tag.group, creator)
        if block not in self.blocks:
            return False
        elements = self.blocks[block]
        return elements is None or tag.element & 0xFF in elements


def declared_safe(dataset: Dataset) -> SafePrivate:
    """Read what Private Data Element Characteristics say is safe (PS3.3 C.12.1)."""
    blocks: dict[tuple[int, str], frozenset[int] | None] = {}
    for item in items(dataset, "PrivateDataElementCharacteristicsSequence"):
        group = numbers(item, "PrivateGroupReference")
        status = text(item, "BlockIdentifyingInformationStatus")
        key = (int(group[0]) if group else 0, text(item, "PrivateCreatorReference"))
        if status == "SAFE":
            blocks[key] = None
        elif status == "MIXED":
            listed = numbers(item, "NonidentifyingPrivateElements")
            blocks[key] = frozenset(int(number) & 0xFF for number in listed)
    return SafePrivate(blocks)


def text_at(dataset: Dataset, tag: int) -> str:
    """Text of a private creator; empty where there is none."""
    return str(dataset[tag].value).strip(" \0") if tag in dataset else ""
