"""Writes how the places of marks were searched: data, and a drawing of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.rendering import render
from engine.search.draw import draw
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import Reading, read_source
from gateway.stages.offline import AlreadyThere

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.types import Frame
    from gateway.stages.protect import ProtectedObject

DRAWING: Final = ".png"


class TraceFiles:
    """One JSON file and one drawing per frame.

    The first frame has the name that was given; others get -2, -3 and so on.

    Parameters
    ----------
    first
        Name of the first JSON file.
    force
        Whether files that are there are replaced.

    Raises
    ------
    AlreadyThere
        The first file or its drawing is there and `force` is not set.
    """

    def __init__(self, first: Path, *, force: bool) -> None:
        self._first = first
        self._force = force
        self._count = 0
        if first.suffix == DRAWING:
            raise AlreadyThere(
                f"{first}: {DRAWING} is the ending of the drawing beside the trace; "
                "name the trace .json"
            )
        if not self._free(first):
            raise AlreadyThere(f"{first} is there; use --force to replace it")

    def write(self, made: ProtectedObject) -> list[str]:
        """Write the traces of a protected object, and name the JSON files."""
        names = []
        for frame, trace in zip(_frames(made), made.traces, strict=True):
            if trace is None:
                continue
            path = self._next()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(trace.to_json() + "\n", encoding="utf-8")
            drawing = draw(trace, render(frame.stored, frame.rendering))
            drawing.save(path.with_suffix(DRAWING))
            names.append(str(path))
        return names

    def _next(self) -> Path:
        """Name of the next file that is free."""
        while True:
            self._count += 1
            ending = f"-{self._count}" if self._count > 1 else ""
            path = self._first.with_stem(f"{self._first.stem}{ending}")
            if self._free(path):
                return path

    def _free(self, path: Path) -> bool:
        taken = path.exists() or path.with_suffix(DRAWING).exists()
        return self._force or not taken


def _frames(made: ProtectedObject) -> Iterator[Frame]:
    """Yield the protected frames of all parts."""
    reading = Reading(max_frames=len(made.traces))
    for part in made.parts:
        offset, syntax = data_set_offset(part.part10)
        yield from read_source(part.part10[offset:], syntax, reading=reading).frames()
