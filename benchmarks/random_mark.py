"""Real files protected without models: a mark at a random place over random δ.

For measurements in which the search makes no difference. δ is uniform noise in
-8..8 on a 224 grid, which no codec makes smaller; α is 128/255.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.protection.values import quiet
from engine.types import SIT, Frame, FrameKey
from engine.watermark.logo import load_logo
from engine.watermark.patch import render_patch, scaled_size
from engine.watermark.stored import Mark, add_mark, apply_delta, make_key
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.pixels import Reading
from gateway.stages.marking import FrameProtector, Marking, Memory
from gateway.stages.protect import (
    ObjectProtection,
    Original,
    ProtectedObject,
    protect_object,
)

GRID: Final = 224
NOISE_LEVELS: Final = 8
ALPHA: Final = 128
SCALE: Final = 2.0  # Eq. 5
MOST_FRAMES: Final = 200


@dataclass(frozen=True)
class Done:
    """Report of a mark that was not searched."""

    success: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}


@dataclass(frozen=True)
class Marked:
    """A frame with a mark, its key and report."""

    stored: NDArray[np.int32]
    key: FrameKey
    report: Done
    trace: None = None
    neighbour: None = None


class RandomMark:
    """The integer blend of the engine without its search."""

    def protect_many(
        self, frames: Sequence[Frame], *, seeds: Sequence[bytes], **_known: object
    ) -> list[Marked]:
        """Mark frames, each at a place of its own."""
        return [_marked(frame, seed) for frame, seed in zip(frames, seeds, strict=True)]


def noise(seed: bytes, frame: Frame) -> NDArray[np.int8]:
    """Uniform noise in the place of δ, ``(224, 224[, 3])`` int8."""
    shape = (GRID, GRID, *frame.stored.shape[2:])
    rng = np.random.default_rng(list(seed))
    return rng.integers(-NOISE_LEVELS, NOISE_LEVELS + 1, shape).astype(np.int8)


def _marked(frame: Frame, seed: bytes) -> Marked:
    rng = np.random.default_rng(list(seed))
    rows, columns = frame.stored.shape[:2]
    logo = load_logo()
    size = scaled_size((columns, rows), logo.size, SCALE)
    delta = noise(seed, frame)
    mark = Mark(
        x=int(rng.integers(0, columns - size[0] + 1)),
        y=int(rng.integers(0, rows - size[1] + 1)),
        alpha=ALPHA,
        sit=SIT(),
        patch=render_patch(logo, size, SIT(), grey=not frame.colour),
    )
    stored = add_mark(apply_delta(frame, delta), frame, mark)
    key = make_key(frame, stored, mark, delta=delta, logo_sha256=logo.sha256)
    return Marked(stored, key, Done())


def protect_with(
    protector: FrameProtector, original: Original, reading: Reading | None = None
) -> ProtectedObject:
    """Protect one original by any protector, as the gateway does it.

    Parameters
    ----------
    protector
        Marks the frames.
    original
        What was received.
    reading
        How it is read; the defaults where absent.
    """
    marking = Marking(
        protector=protector,
        batch_frames=1,
        series="",
        memory=Memory(),
        progress=quiet,
    )
    return protect_object(
        original,
        protection=ObjectProtection(marking=marking, uids=UidMapper(bytes(32))),
        reading=reading or Reading(max_frames=MOST_FRAMES),
    )


def installed(name: str) -> Path:
    """Find a file of the packages pydicom and pydicom-data, on disk only."""
    for package in ("pydicom", "data_store"):
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            for path in Path(root).rglob(name):
                return path
    raise SystemExit(f"no {name}: pip install pydicom-data")
