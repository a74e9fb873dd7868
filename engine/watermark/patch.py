"""From a logo to the patch that is blended: Eq. 5, then the transform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from engine.errors import InvalidParameter
from engine.watermark import sit as transforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.types import SIT
    from engine.watermark.logo import Logo


def scaled_size(
    frame: tuple[int, int], logo: tuple[int, int], sl: float
) -> tuple[int, int]:
    """Size of the logo on a frame, (w', h') of Eq. 5, at least one pixel.

    The area falls with 1/sl² (the percentages the paper quotes follow 1/sl
    and contradict its own equation).

    Parameters
    ----------
    frame
        Width and height of the frame, W and H.
    logo
        Width and height of the logo, w and h.
    sl
        Logo scale, at least 1.

    Raises
    ------
    InvalidParameter
        ``sl`` is below 1: the logo would be larger than the frame.
    """
    if not sl >= 1:
        raise InvalidParameter(f"sl={sl}: must be at least 1")
    (W, H), (w, h) = frame, logo
    scale = min(W / (sl * w), H / (sl * h))
    # The tiny term keeps exact ratios (W/2 at sl=2) from losing a pixel.
    return max(1, int(w * scale + 1e-9)), max(1, int(h * scale + 1e-9))


def render_patch(
    logo: Logo, size: tuple[int, int], sit: SIT, *, grey: bool
) -> NDArray[np.uint8]:
    """Render the logo as it will be blended: scaled, recoloured, rotated, cut.

    Parameters
    ----------
    logo
        The logo.
    size
        Width and height before rotation, from `scaled_size`.
    sit
        The transform; ``SIT()`` leaves the logo as it is.
    grey
        Whether the frame is grey.

    Returns
    -------
    NDArray[np.uint8]
        ``(h'', w'', 4)`` uint8 premultiplied RGBA, tight around the logo.
    """
    return transforms.apply(scale_logo(logo, size), sit, grey=grey)


def resize_patch(patch: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resample a premultiplied patch, averaging over areas when shrinking.

    Parameters
    ----------
    patch
        ``(h, w, 4)`` uint8 premultiplied RGBA.
    size
        New width and height, at least 1 each.
    """
    if (patch.shape[1], patch.shape[0]) == size:
        return patch
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(patch[..., c])).resize(
                size, Image.Resampling.BILINEAR
            )
        )
        for c in range(4)
    ]
    return transforms.bounded(np.stack(planes, axis=2))


def scale_logo(logo: Logo, size: tuple[int, int]) -> NDArray[np.uint8]:
    """``(h, w, 4)`` uint8 RGBA of the logo at `size`, (w, h), not premultiplied."""
    picture = Image.fromarray(np.ascontiguousarray(logo.rgba))
    if picture.size != size:
        # "RGBa" is premultiplied, so transparent pixels lend no colour.
        small = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS)
        picture = small.convert("RGBA")
    return np.asarray(picture)
