"""Protects the frames of a series in order, each beside the one before."""

from __future__ import annotations

from dataclasses import replace
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
"""Frames protected together by default."""


def protect_series(
    protector: Protector,
    frames: Iterable[Frame],
    *,
    seeds: Iterable[bytes],
    given: Iterable[Given] | None = None,
    neighbour: Neighbour | None = None,
    batch: int = BATCH,
) -> Iterator[ProtectedFrame | NoFeasiblePlacement]:
    """Protect frames of one series in order, in bounded memory.

    Without a neighbour the first frame is protected alone; all others in
    batches, each beside the last frame that was protected before its batch.

    Parameters
    ----------
    protector
        What protects.
    frames, seeds, given
        One of each per frame, as in `Protector.protect`; read as they are
        needed. What is given of neighbours is replaced.
    neighbour
        Of the frame before the first one, where there was one.
    batch
        Most frames in memory at once, at least 1. Of slices that differ much
        the nearest neighbour teaches more: fewer then spare more searches.

    Yields
    ------
    ProtectedFrame or NoFeasiblePlacement
        In order; the error of a frame whose logo has no place.

    Raises
    ------
    InvalidParameter
        `batch` is below 1.
    ValueError
        There are not as many seeds as frames, or as much given.
    """
    if batch < 1:
        raise InvalidParameter(f"batch={batch}: must be at least 1")
    known = _given(frames, seeds, given)
    last = neighbour
    while part := list(islice(known, batch if last else 1)):
        done = protector.protect_many(
            [frame for frame, _, _ in part],
            seeds=[seed for _, seed, _ in part],
            given=[replace(one, neighbour=last) for _, _, one in part],
        )
        del part
        for one in done:
            if isinstance(one, ProtectedFrame):
                last = one.neighbour
        yield from done


def _given(
    frames: Iterable[Frame], seeds: Iterable[bytes], given: Iterable[Given] | None
) -> Iterator[tuple[Frame, bytes, Given]]:
    if given is not None:
        return zip(frames, seeds, given, strict=True)
    return ((frame, seed, Given()) for frame, seed in zip(frames, seeds, strict=True))
