"""A gateway whose marks are not searched: for what is not about the engine.

    python -m benchmarks.corpus.stand_in serve --config site.toml

Everything is the product's but the search: each frame gets one random mark and δ by
the engine's own integer blend, is recorded, derived, restored and sent as always.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.types import SIT, Frame, FrameKey
from engine.watermark.stored import Mark, add_mark, apply_delta, make_key
from gateway.app import serve as serving
from gateway.cli.main import main as gateway_main
from gateway.stages import protectors
from gateway.supervise import Child

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELTA_GRID = 24
MODULE = "benchmarks.corpus.stand_in"


@dataclass(frozen=True)
class Unjudged:
    """What is said of a frame that no model saw."""

    success: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Give it for the index."""
        return {"success": self.success, "stand_in": True}


@dataclass(frozen=True)
class Marked:
    """A frame with a random mark."""

    stored: NDArray[np.int32]
    key: FrameKey
    report: Unjudged
    trace: None = None
    neighbour: None = None


class RandomMarks:
    """Stands in for the engine's protector."""

    def protect_many(
        self,
        frames: Sequence[Frame],
        *,
        seeds: Sequence[bytes],
        given: Sequence[object],
        progress: Any,  # noqa: ANN401 - called with a stage and two numbers
    ) -> list[Marked]:
        """Mark frames."""
        progress("search", len(given), len(given))
        return [_marked(*each) for each in zip(frames, seeds, strict=True)]


def _marked(frame: Frame, seed: bytes) -> Marked:
    chance = np.random.default_rng(list(seed))
    rows, columns = frame.stored.shape[:2]
    h, w = int(chance.integers(4, rows // 2)), int(chance.integers(4, columns // 2))
    shape = (DELTA_GRID, DELTA_GRID, *frame.stored.shape[2:])
    delta = chance.integers(-8, 9, shape).astype(np.int8)
    matte = chance.choice(np.array([0, 0, 90, 200, 255]), (h, w, 1))
    colours = chance.integers(0, 256, (h, w, 3 if frame.colour else 1)) * matte // 255
    patch = np.concatenate([np.broadcast_to(colours, (h, w, 3)), matte], axis=2)
    mark = Mark(
        x=int(chance.integers(0, columns - w + 1)),
        y=int(chance.integers(0, rows - h + 1)),
        alpha=int(chance.integers(1, 256)),
        sit=SIT(rotation=float(chance.uniform(-45, 45)), hue=12.5),
        patch=patch.astype(np.uint8),
    )
    stored = add_mark(apply_delta(frame, delta), frame, mark)
    key = make_key(frame, stored, mark, delta=delta, logo_sha256="00" * 32)
    return Marked(stored=stored, key=key, report=Unjudged())


def main() -> None:
    """Run a command of the gateway, its worker without an engine."""
    real = serving._child

    def child(config: Path, name: str, *more: str) -> Child:
        made = real(config, name, *more)
        if name != "worker":
            return made
        place = made.command.index("gateway.cli.main")
        command = [*made.command[:place], MODULE, *made.command[place + 1 :]]
        return Child(name=made.name, command=command)

    serving._child = child
    marks: Any = RandomMarks()
    protectors._build = lambda *_: marks
    gateway_main()


if __name__ == "__main__":
    main()
