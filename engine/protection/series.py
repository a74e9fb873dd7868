"""Protects the frames of a series in order, each beside the one before."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from engine.errors import InvalidParameter
from engine.protection.values import Given, Neighbour, ProtectedFrame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from engine.errors import NoFeasiblePlacement
    from engine.protection.protector import Protector
    from engine.types import Frame

BATCH: Final = 8
"""Frames protected together where a batch is faster than its frames."""


def protect_series(
    protector: Protector,
    frames: Iterable[Frame],
    *,
    seeds: Iterable[bytes],
    neighbour: Neighbour | None = None,
    batch: int | None = None,
) -> Iterator[ProtectedFrame | NoFeasiblePlacement]:
    """Protect frames of one series in order, in bounded memory.

    Without a neighbour the first frame is protected alone; all others in
    batches, each beside the last frame that was protected before its batch.

    Parameters
    ----------
    protector
        What protects.
    frames, seeds
        One seed per frame, as in `Protector.protect`; read as they are needed.
    neighbour
        Of the frame before the first one, where there was one.
    batch
        Most frames in memory at once, at least 1. By default one on a
        processor, where batches gain nothing and the nearest neighbour teaches
        the most, and `BATCH` on other devices.

    Yields
    ------
    ProtectedFrame or NoFeasiblePlacement
        In order; the error of a frame whose logo has no place.

    Raises
    ------
    InvalidParameter
        `batch` is below 1.
    ValueError
        There are not as many seeds as frames.
    """
    size = batch or (1 if protector.device.type == "cpu" else BATCH)
    if batch is not None and batch < 1:
        raise InvalidParameter(f"batch={batch}: must be at least 1")
    pairs = zip(frames, seeds, strict=True)
    last = neighbour
    while part := list(islice(pairs, size if last else 1)):
        done = protector.protect_many(
            [frame for frame, _ in part],
            seeds=[seed for _, seed in part],
            given=[Given(neighbour=last)] * len(part),
        )
        del part
        for one in done:
            if isinstance(one, ProtectedFrame):
                last = one.neighbour
        yield from done
