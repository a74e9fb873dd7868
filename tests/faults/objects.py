"""What the senders send: real small images, each under UIDs of its own.

An MR of 64x64 and a CT of 128x128 pixels of pydicom's files; the least significant
bits of each copy's pixels are its own, so that no two have the same picture.
"""

from __future__ import annotations

import hashlib
import random
from copy import deepcopy
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

from pydicom import dcmread, dcmwrite
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from gateway.demo.nodes import data_set_of

Route = Literal["protected", "originals"]

TEMPLATES = {"protected": "MR_small.dcm", "originals": "CT_small.dcm"}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One object to be sent.

    Attributes
    ----------
    path
        A Part 10 file, as senders read it.
    sha256
        Of its data set octets.
    pixels
        SHA-256 of its pixel data.
    route
        Whether it leaves protected or, to another node, as it is.
    """

    path: str
    uid: str
    series: str
    study: str
    sha256: str
    pixels: str
    route: Route


class Factory:
    """Makes series; everything follows from the seed.

    Parameters
    ----------
    folder
        Where the files go.
    seed
        Of UIDs and pixels.
    """

    def __init__(self, folder: Path, seed: str) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._templates = {route: _template(name) for route, name in TEMPLATES.items()}
        folder.mkdir(parents=True, exist_ok=True)

    def series(self, route: Route, size: int) -> list[Item]:
        """Write a new series of a new study."""
        study, series = self._uid(), self._uid()
        return [self._item(route, study, series, n) for n in range(1, size + 1)]

    def _item(self, route: Route, study: str, series: str, number: int) -> Item:
        ds = deepcopy(self._templates[route])
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = self._uid()
        ds.InstanceNumber = number
        ds.PixelData = self._own(ds.PixelData)
        stream = BytesIO()
        dcmwrite(stream, ds, enforce_file_format=True)
        part10 = stream.getvalue()
        path = self._folder / f"{ds.SOPInstanceUID}.dcm"
        path.write_bytes(part10)
        return Item(
            path=path.as_posix(),
            uid=str(ds.SOPInstanceUID),
            series=series,
            study=study,
            sha256=hashlib.sha256(data_set_of(part10)).hexdigest(),
            pixels=hashlib.sha256(ds.PixelData).hexdigest(),
            route=route,
        )

    def _own(self, pixels: bytes) -> bytes:
        """Change the least significant bits of some pixels (16 bits, little endian)."""
        changed = bytearray(pixels)
        for place in self._random.sample(range(0, len(pixels), 2), 64):
            changed[place] ^= self._random.randint(0, 1)
        return bytes(changed)

    def _uid(self) -> str:
        return f"2.25.{self._random.getrandbits(120)}"


def _template(name: str) -> Dataset:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), f"{name} is not in pydicom"
    ds = dcmread(path)
    # Senders read and write: what they would write anew must not be in the way.
    for element in list(ds):
        if element.tag.element == 0 or element.VR == "SQ":
            del ds[element.tag]
    ds.pop(0xFFFCFFFC, None)
    ds.remove_private_tags()
    return ds
