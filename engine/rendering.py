"""From stored values to the display levels a viewer, and an AI, would see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.types import LEVELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.types import Rendering


def render(stored: NDArray[np.int32], rendering: Rendering) -> NDArray[np.uint8]:
    """Display levels of stored values (PS3.3 C.11.2.1.2.1, linear function).

    Only elementary float64 operations, so the result is the same on every
    machine.

    Parameters
    ----------
    stored
        int32 stored values of any shape.
    rendering
        The window in stored units.

    Returns
    -------
    NDArray[np.uint8]
        Levels 0..255, shape of `stored`, rounded half up.
    """
    scaled = (stored.astype(np.float64) - rendering.lo) * (
        LEVELS / (rendering.hi - rendering.lo)
    )
    levels = np.floor(np.clip(scaled, 0.0, LEVELS) + 0.5)
    if rendering.inverted:
        levels = LEVELS - levels
    return levels.astype(np.uint8)
