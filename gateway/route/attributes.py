"""From a data set to what conditions see; pixel data is never read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from gateway.route.keywords import (
    FACTS,
    Scalar,
    Value,
    absent,
    is_list,
    kind_of,
    tag_of,
)


class AssociationFacts(Protocol):
    """By which association an instance came."""

    @property
    def calling_ae(self) -> str:
        """AE title of the sender."""

    @property
    def called_ae(self) -> str:
        """AE title the sender asked for."""

    @property
    def peer_address(self) -> str:
        """Network address of the sender."""


def attributes_of(
    dataset: Dataset, facts: AssociationFacts, keywords: Collection[str]
) -> dict[str, Value]:
    """Return the value of each keyword, as conditions see it.

    Parameters
    ----------
    dataset
        The decoded data set; elements not asked for are left undecoded.
    facts
        Of the association the instance came by.
    keywords
        What is asked for, normally the union over all conditions.
    """
    return {
        keyword: getattr(facts, keyword)
        if keyword in FACTS
        else attribute(dataset, keyword)
        for keyword in keywords
    }


def attribute(dataset: Dataset, keyword: str) -> Value:
    """Return one attribute as conditions see it.

    A value that its VR does not allow counts as absent: a rule cannot be
    decided by what cannot be read.
    """
    tag = tag_of(keyword)
    if tag not in dataset:
        return absent(keyword)
    try:
        raw = dataset[tag].value
        values = list(raw) if isinstance(raw, MultiValue | list | tuple) else [raw]
        converted = [_scalar(keyword, value) for value in values if not _empty(value)]
    except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
        return absent(keyword)
    if is_list(keyword):
        return converted
    return converted[0] if converted else absent(keyword)


def _empty(value: object) -> bool:
    return value is None or str(value) == ""


def _scalar(keyword: str, value: object) -> Scalar:
    kind = kind_of(keyword)
    if kind == "double":
        return float(str(value))
    if kind == "int":
        return int(str(value))
    return str(value).strip()
