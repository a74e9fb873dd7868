"""Attributes of stored objects that the index does not keep, for queries.

Read from the head of the stored file, never pixels, and only those asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from gateway.dicom.elements import inflate_head
from gateway.dicom.lenient import lenient
from gateway.errors import InvalidObject, StoredObjectDamaged
from gateway.store.part10 import read_head

CHARACTER_SET = Tag("SpecificCharacterSet")
LAST_TAG = 0xFFFFFFFF
PIXEL_REPRESENTATION = Tag("PixelRepresentation")  # says what "US or SS" is
ONE_AT_A_TIME = threading.Lock()


@contextmanager
def one_lenient() -> Iterator[None]:
    """Be lenient while no other query is: pydicom's switches are the process's.

    Without it, one association that is done would make another strict half way,
    and values that break the standard would be missing from its answers.
    """
    with ONE_AT_A_TIME, lenient():
        yield


def read_header(part10: BinaryIO, tags: Collection[int]) -> Dataset:
    """Read some attributes of a stored object.

    Parameters
    ----------
    part10
        A file of the store, at its start.
    tags
        Which ones; of sequences all items are read.

    Returns
    -------
    Dataset
        Those that it has. One whose value its VR forbids has VR UN.

    Raises
    ------
    StoredObjectDamaged
        The file cannot be read.
    """
    try:
        meta = read_head(part10)
        return read_some(part10, UID(meta.transfer_syntax_uid), tags)
    except (OSError, InvalidObject) as error:
        raise StoredObjectDamaged(f"A stored file cannot be read: {error}") from error


def read_some(
    stream: BinaryIO,
    transfer_syntax: UID,
    tags: Collection[int] | None = None,
    last_tag: int = LAST_TAG,
) -> Dataset:
    """Read attributes of an encoded data set; all of them where none are named.

    Where none are named, nothing behind ``last_tag`` is read.

    Raises
    ------
    InvalidObject
        The bytes are no data set.
    """
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        stream = inflate_head(stream)
    known = not transfer_syntax.is_private and transfer_syntax.is_transfer_syntax
    wanted = None
    if tags is not None:
        wanted = [Tag(tag) for tag in (*tags, CHARACTER_SET, PIXEL_REPRESENTATION)]
    last = last_tag if wanted is None else int(max(wanted))

    def beyond(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return int(tag) > last

    try:
        with one_lenient():
            dataset = read_dataset(
                stream,
                known and transfer_syntax.is_implicit_VR,
                not known or transfer_syntax.is_little_endian,
                stop_when=beyond,
                specific_tags=None if wanted is None else list(wanted),
            )
            _convert(dataset)
    except Exception as error:
        # pydicom raises anything on what is no data set
        raise InvalidObject("The data set cannot be read") from error
    return dataset


def _convert(dataset: Dataset) -> None:
    """Decode every value now, and keep as bytes what cannot be decoded."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001 - pydicom raises anything on bad values
            raw = dataset.get_item(tag).value
            value = raw if isinstance(raw, bytes) else b""
            dataset[tag] = DataElement(tag, "UN", value)
            continue
        if element.VR == "SQ":
            for item in element.value:
                _convert(item)
