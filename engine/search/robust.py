"""Mild random changes of pictures, and finalists ranked again under them.

A mark that only just deceives flips back when the picture is resized, windowed
or compressed on its way; what it is worth after that decides among the finalists.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import conv2d, interpolate, pad

from engine.errors import InvalidParameter
from engine.types import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.search.objective import Objective

MAX_CROP: Final = 0.06
"""Largest share of a side that `cropped` takes away."""


class Kept(NamedTuple):
    """What a picture is worth under random changes; lower is better.

    Attributes
    ----------
    fitness, tie
        Means of the judgements' fitness and tie.
    success
        Share of the changes under which the stop rule still holds, 0..1.
    """

    fitness: float
    tie: float
    success: float


def resized(pictures: torch.Tensor, factor: float) -> torch.Tensor:
    """Resize to a smaller size and back, bilinear with antialiasing.

    Parameters
    ----------
    pictures
        ``(N, 3, G, G)`` float32 in [0, 1].
    factor
        Of the sides, (0, 1].

    Returns
    -------
    torch.Tensor
        The same shape, type, range and device.
    """
    size = [max(1, round(side * factor)) for side in pictures.shape[-2:]]
    small = _resample(pictures, size)
    return _resample(small, list(pictures.shape[-2:]))


def blurred(pictures: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur with a 3x3 Gaussian kernel; edges are repeated.

    Parameters
    ----------
    pictures
        ``(N, 3, G, G)`` float32 in [0, 1].
    sigma
        Standard deviation in grid pixels, above 0.

    Returns
    -------
    torch.Tensor
        The same shape, type, range and device.
    """
    at = torch.arange(-1, 2, device=pictures.device, dtype=pictures.dtype)
    line = torch.exp(-at.square() / (2 * sigma**2))
    kernel = torch.outer(line, line)
    channels = pictures.shape[1]
    weight = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    around = pad(pictures, (1, 1, 1, 1), mode="replicate")
    return conv2d(around, weight, groups=channels).clamp(0, 1)


def compressed(pictures: torch.Tensor, quality: int) -> torch.Tensor:
    """Compress with JPEG and decode again.

    Parameters
    ----------
    pictures
        ``(N, 3, G, G)`` float32 in [0, 1].
    quality
        Of JPEG, 1..95.

    Returns
    -------
    torch.Tensor
        The same shape, type and device; multiples of 1/255.
    """
    levels = (pictures.detach() * LEVELS).round().clamp(0, LEVELS).to(torch.uint8)
    planes = levels.permute(0, 2, 3, 1).cpu().numpy()
    decoded = np.stack([_jpeg(picture, quality) for picture in planes])
    back = torch.from_numpy(decoded).permute(0, 3, 1, 2).to(pictures)
    return (back / LEVELS).contiguous()


def windowed(
    pictures: torch.Tensor, *, brightness: float, contrast: float, gamma: float
) -> torch.Tensor:
    """Show through a slightly different window.

    Parameters
    ----------
    pictures
        ``(N, 3, G, G)`` float32 in [0, 1].
    brightness
        Added, in units of the full range.
    contrast
        Factor about the middle of the range.
    gamma
        Exponent, above 0, applied last.

    Returns
    -------
    torch.Tensor
        The same shape, type and device, clipped to [0, 1].
    """
    shown = (pictures - 0.5) * contrast + 0.5 + brightness
    return shown.clamp(0, 1) ** gamma


def cropped(
    pictures: torch.Tensor, share: float, corner: tuple[float, float]
) -> torch.Tensor:
    """Crop a little and resize to the old size.

    Parameters
    ----------
    pictures
        ``(N, 3, G, G)`` float32 in [0, 1].
    share
        Of each side that is taken away, [0, 1).
    corner
        Which part of that is taken from the left and from the top, 0..1 each.

    Returns
    -------
    torch.Tensor
        The same shape, type, range and device.
    """
    rows, columns = pictures.shape[-2:]
    away = round(columns * share), round(rows * share)
    x, y = (round(a * c) for a, c in zip(away, corner, strict=True))
    part = pictures[..., y : y + rows - away[1], x : x + columns - away[0]]
    return _resample(part, [rows, columns])


def changes(
    pictures: torch.Tensor, count: int, generator: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Change all pictures in the same way, several times.

    All five kinds come in turn, in random order, before one comes again. What
    is drawn does not depend on the pictures or how many there are.

    Parameters
    ----------
    pictures
        ``(N, 3, G, G)`` float32 in [0, 1].
    count
        How many times, at least 1; 4 or more say something.
    generator
        Source of every draw.

    Yields
    ------
    torch.Tensor
        ``(N, 3, G, G)`` float32 in [0, 1], on the device of `pictures`.

    Raises
    ------
    InvalidParameter
        `count` is below 1.
    """
    if count < 1:
        raise InvalidParameter(f"{count} random changes: must be at least 1")
    order: list[int] = []
    for _ in range(count):
        order = order or generator.permutation(len(_KINDS)).tolist()
        yield _KINDS[order.pop()](pictures, generator)


def steadiness(
    pictures: torch.Tensor,
    look: Callable[[torch.Tensor], torch.Tensor],
    objective: Objective,
    *,
    count: int,
    generator: np.random.Generator,
) -> list[Kept]:
    """Measure what pictures are worth under random changes.

    Parameters
    ----------
    pictures
        ``(N, 3, G, G)`` float32 in [0, 1]; all see the same changes.
    look
        What the members say of pictures: ``(N, 3, G, G)`` to logits
        ``(k, N, C)``.
    objective
        What is wanted.
    count
        How many changes.
    generator
        Source of the changes.

    Returns
    -------
    list of Kept
        One per picture, in order.
    """
    if not len(pictures):
        return []
    judged = [
        objective.judge(look(changed).detach().cpu().double())
        for changed in changes(pictures, count, generator)
    ]
    return [
        Kept(
            fitness=sum(one.fitness for one in seen) / count,
            tie=sum(one.tie for one in seen) / count,
            success=sum(one.success for one in seen) / count,
        )
        for seen in zip(*judged, strict=True)
    ]


def rerank(
    pictures: torch.Tensor,
    look: Callable[[torch.Tensor], torch.Tensor],
    objective: Objective,
    *,
    count: int,
    generator: np.random.Generator,
) -> list[int]:
    """Order finalists by their mean fitness under random changes, best first.

    Equal ones stay in the order given. Parameters as in `steadiness`.

    Returns
    -------
    list of int
        Indices of `pictures`.
    """
    kept = steadiness(pictures, look, objective, count=count, generator=generator)
    return sorted(range(len(kept)), key=lambda i: (kept[i].fitness, kept[i].tie))


def _resample(pictures: torch.Tensor, size: list[int]) -> torch.Tensor:
    done = interpolate(
        pictures, size, mode="bilinear", antialias=True, align_corners=False
    )
    return done.clamp(0, 1)


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))


def _resize(pictures: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    return resized(pictures, generator.uniform(0.5, 0.9))


def _blur(pictures: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    return blurred(pictures, generator.uniform(0.5, 1.0))


def _compress(pictures: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    return compressed(pictures, int(generator.integers(60, 96)))


def _window(pictures: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    return windowed(
        pictures,
        brightness=generator.uniform(-0.08, 0.08),
        contrast=generator.uniform(0.85, 1.15),
        gamma=generator.uniform(0.85, 1.15),
    )


def _crop(pictures: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    share = generator.uniform(0.02, MAX_CROP)
    return cropped(pictures, share, (generator.random(), generator.random()))


_KINDS: Final = (_resize, _blur, _compress, _window, _crop)
