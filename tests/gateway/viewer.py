"""What another vendor's viewer shows of an object: DCMTK's ``dcm2pnm``."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.rendering import render
from engine.types import Rendering
from gateway.dicom.derive import encode_part10
from gateway.dicom.derived_pixels import Part
from gateway.dicom.pixels import Source
from gateway.vault.layout import PixelLayout, unpack

TOLERANCE = 1
"""Levels by which rounding may differ."""

Window = int | tuple[str, str]
"""Number of a window in the object from 1, or centre and width."""


def shown_by_dcmtk(path: Path, frame: int, window: Window) -> NDArray[np.uint8]:
    """Levels 0..255 of one frame (from 1), without overlays."""
    chosen = ["+Wi", str(window)] if isinstance(window, int) else ["+Ww", *window]
    done = subprocess.run(
        ["dcm2pnm", "-q", "-O", "+F", str(frame), *chosen, "+op", str(path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    magic, columns, rows, *_ = done.stdout.split(maxsplit=4)
    assert magic == b"P5"
    size = int(rows) * int(columns)
    return np.frombuffer(done.stdout[-size:], np.uint8).reshape(int(rows), int(columns))


def as_window(rendering: Rendering, layout: PixelLayout, dataset: Dataset) -> Window:
    """Centre and width of a rendering of stored values, for a protected object."""
    slope = float(dataset.get("RescaleSlope", 1))
    intercept = float(dataset.get("RescaleIntercept", 0))
    written = [
        layout.origin - end if layout.mirrored else end - layout.origin
        for end in (rendering.lo, rendering.hi)
    ]
    low, high = sorted(end * slope + intercept for end in written)
    return f"{(low + high) / 2 + 0.5:.9f}", f"{high - low + 1:.9f}"


def largest_difference(
    source: Source, part: Part, dataset: Dataset, folder: Path
) -> int:
    """Most levels by which DCMTK and the engine show a protected object apart.

    First, middle and last frame are compared, each under every window it is
    judged under: by its number where DCMTK finds it in the object (it does not
    read functional groups), else by centre and width.
    """
    path = folder / "shown.dcm"
    path.write_bytes(encode_part10(dataset))
    frames = unpack(dataset.PixelData, part.layout)
    worst = 0
    for at in sorted({0, len(frames) // 2, len(frames) - 1}):
        index = part.frames[at]
        in_object = source.windows[index] if "WindowCenter" in dataset else ()
        for rendering in source.renderings[index]:
            window = (
                in_object.index(rendering) + 1
                if rendering in in_object
                else as_window(rendering, part.layout, dataset)
            )
            shown = shown_by_dcmtk(path, at + 1, window).astype(int)
            expected = render(frames[at], rendering).astype(int)
            worst = max(worst, int(np.abs(shown - expected).max()))
    return worst
