"""The second window an example is shown under."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset

from engine.types import Frame
from gateway.dicom.voi import rescale_of

NARROW: Final = (40.0, 80.0)
"""As for the brain: small changes show large."""
BONE: Final = (480.0, 2500.0)
WIDE_HU: Final = 1000.0
"""From this width on, the stored window of a CT counts as a wide one."""


@dataclass(frozen=True, kw_only=True)
class Second:
    """A window relative to the stored one: 0 is its lower end, 1 its upper.

    As it stands it is the stored window.
    """

    name: str = "stored window"
    start: float = 0.0
    end: float = 1.0

    def mirrored(self) -> Second:
        """Say the same where stored values are counted downwards."""
        return Second(name=self.name, start=1.0 - self.end, end=1.0 - self.start)


WIDER: Final = Second(name="twice as wide", start=-0.5, end=1.5)
DARK: Final = Second(name="dark half", start=0.0, end=0.5)


def second_window(dataset: Dataset, frame: Frame, modality: str) -> Second:
    """Choose a window that shows other things than the stored one.

    Parameters
    ----------
    dataset
        The original, for its rescale.
    frame
        Its frame, with the stored window.
    modality
        CT gets bone, or a narrow one where the stored window is wide already.

    Returns
    -------
    Second
        For colour the darker half of the levels, brightened; for other grey
        images a window twice as wide.
    """
    if frame.colour:
        return DARK
    rescale = rescale_of(dataset, 0)
    if modality != "CT" or rescale is None:
        return WIDER
    stored = frame.rendering
    span = stored.hi - stored.lo
    wide = span * abs(rescale.slope) >= WIDE_HU
    name, (center, width) = ("narrow", NARROW) if wide else ("bone", BONE)
    ends = [
        (center - 0.5 + side * (width - 1) / 2 - rescale.intercept) / rescale.slope
        for side in (-1, 1)
    ]
    start, end = ((value - stored.lo) / span for value in sorted(ends))
    return Second(name=f"{name} {center:.0f}/{width:.0f}", start=start, end=end)
