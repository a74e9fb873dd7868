"""Draws the trace of a search: where marks were tried, and how they did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from PIL import Image

from engine.search.pen import Panel, Pen, mixed, ticks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.search.candidate import Candidate, Judged
    from engine.search.pen import Colour, Point
    from engine.search.trace import Trace

_SIZE: Final = (1440, 800)
_TOP: Final = 96
_SQUARE: Final = 600
"""Longest side of the picture."""

_GROUND: Final = (22, 25, 31)
_INK: Final = (230, 233, 238)
_FAINT: Final = (140, 148, 160)
_RULE: Final = (54, 60, 70)
_LESION: Final = (255, 96, 96)
_TAKEN: Final = (255, 255, 255)
_ERROR: Final = (255, 160, 70)
_BEST: Final = (120, 200, 255)
_SCALE: Final = ((255, 220, 70), (60, 190, 130), (92, 112, 225))
"""Colours of the lowest (best), the middle and the highest fitness."""


def draw(trace: Trace, picture: NDArray[np.uint8]) -> Image.Image:
    """Draw a search: on the left where, on the right how well.

    Parameters
    ----------
    trace
        The search.
    picture
        ``(rows, columns)`` or ``(rows, columns, 3)`` uint8, the frame as it is
        shown, original or protected; any size.

    Returns
    -------
    Image.Image
        RGB, 1440 x 800.
    """
    pen, looks = Pen(_SIZE, _GROUND), _Looks.of(trace)
    _head(pen, trace)
    _places(pen, trace, looks, picture)
    _course(pen, trace, looks)
    return pen.finished()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Looks:
    """How entries are shown.

    ``low`` and ``high`` are the range of the fitness, ``name`` what it is in a
    word, ``title`` in a line; ``queries`` says how they are counted.
    """

    low: float
    high: float
    name: str
    title: str
    queries: str

    @classmethod
    def of(cls, trace: Trace) -> _Looks:
        known = [one.judgement.fitness for one in trace.entries]
        known = [v for v in known if math.isfinite(v)] or [0.0]
        low, high = min(known), max(known)
        confident = trace.params.stop_rule.kind == "ensemble"
        scale = "confidence 0..1" if confident else "mean lead over other classes"
        # Of an image they were not trained on, a class name says nothing.
        answer = f"'{trace.labels[trace.label]}'"
        answer = "their first answer" if trace.label_free else answer
        dear = any(one.cost > 1 for one in trace.entries)
        return cls(
            low=low,
            high=high if high > low else low + 1e-3,
            name="confidence" if confident else "lead",
            title=f"How sure the models still are of {answer}: "
            f"{scale} (lower is better)",
            queries="image queries: one for each mark judged"
            + (", three with its gradient" if dear else ""),
        )

    def colour(self, one: Judged) -> Colour:
        share = (one.judgement.fitness - self.low) / (self.high - self.low)
        return mixed(_SCALE, share if math.isfinite(share) else 1.0)

    def radius(self, one: Judged) -> float:
        return 5.0 if one.judgement.deceived else 3.2


def _head(pen: Pen, trace: Trace) -> None:
    """Two lines: what was searched, and what came of it."""
    params, count = trace.params, len(trace.members)
    pen.text(
        (40, 22), f"Search for a place for the mark: {params.strategy}", _INK, size=24
    )
    asked = (
        f"stop rule {params.rule}  |  {len(trace.entries)} marks judged, "
        f"{trace.queries} image queries counted"
        f"{f' of {params.budget}' if params.budget else ''}  |  "
        f"{count} model{'s' * (count > 1)}: {', '.join(trace.members)}"
    )
    pen.text((40, 58), _cut(asked, 150), _FAINT, size=15)


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 3]}..."


def _places(pen: Pen, trace: Trace, looks: _Looks, picture: NDArray[np.uint8]) -> None:
    """Show the picture with lesion boxes, all places tried and the mark."""
    rows, columns = picture.shape[:2]
    scale = _SQUARE / max(rows, columns)
    left, top = 40 + (_SQUARE - columns * scale) / 2, float(_TOP)
    panel = Panel(
        left=left,
        top=top,
        right=left + columns * scale,
        bottom=top + rows * scale,
        across=(0, trace.side),
        down=(0, trace.side),
    )
    pen.paste(Image.fromarray(picture).convert("RGB"), panel)
    for box in trace.boxes:
        a, b = panel.at(box.x0, box.y0), panel.at(box.x1, box.y1)
        pen.area(a, b, _LESION, opacity=45)
        pen.outline([a, (b[0], a[1]), b, (a[0], b[1])], _LESION, width=2)
    for one in sorted(trace.entries, key=lambda one: one.rank, reverse=True):
        x, y = _centre(trace, one.candidate)
        pen.dot(panel.at(x, y), looks.radius(one), looks.colour(one))
    taken = trace.entries[trace.result].candidate
    pen.outline(_corners(trace, taken, panel), _TAKEN, width=3)
    _legend(pen, looks, _TOP + _SQUARE + 20)


def _footprint(trace: Trace, one: Candidate) -> tuple[float, float]:
    """Width and height on the grid of the box around a turned logo."""
    w, h = trace.size
    turn = math.radians(one.sit.rotation)
    across, down = abs(math.cos(turn)), abs(math.sin(turn))
    return (
        (w * across + h * down) * trace.side / trace.columns,
        (w * down + h * across) * trace.side / trace.rows,
    )


def _centre(trace: Trace, one: Candidate) -> Point:
    w, h = _footprint(trace, one)
    return one.x + w / 2, one.y + h / 2


def _corners(trace: Trace, one: Candidate, panel: Panel) -> list[Point]:
    """Corners of the turned logo itself, in pixels of the drawing."""
    (x, y), (w, h) = _centre(trace, one), trace.size
    turn = math.radians(one.sit.rotation)
    found = []
    for dx, dy in ((-w, -h), (w, -h), (w, h), (-w, h)):
        # Counter-clockwise on a picture whose rows run downwards.
        right = (dx * math.cos(turn) + dy * math.sin(turn)) / 2
        below = (dy * math.cos(turn) - dx * math.sin(turn)) / 2
        found.append(
            panel.at(
                x + right * trace.side / trace.columns,
                y + below * trace.side / trace.rows,
            )
        )
    return found


def _legend(pen: Pen, looks: _Looks, top: float) -> None:
    """Signs and colours, in two rows below the picture."""
    x = 40.0
    pen.outline(
        [(x, top), (x + 22, top), (x + 22, top + 14), (x, top + 14)], _TAKEN, width=3
    )
    x += 30 + pen.text((x + 30, top - 2), "the mark that was taken", _INK) + 24
    pen.area((x, top), (x + 22, top + 14), _LESION, opacity=45)
    pen.outline(
        [(x, top), (x + 22, top), (x + 22, top + 14), (x, top + 14)], _LESION, width=2
    )
    pen.text((x + 30, top - 2), "lesion box: no mark may touch it", _INK)
    x, row = 40.0, top + 36
    pen.dot((x + 5, row + 7), 5.0, _SCALE[0])
    x += 18 + pen.text((x + 18, row - 2), "centre of a mark that deceives", _INK) + 20
    pen.dot((x + 4, row + 7), 3.2, _SCALE[-1])
    x += 14 + pen.text((x + 14, row - 2), "of one that does not", _INK) + 30
    x += pen.text((x, row - 2), f"{looks.low:.3g}", _INK) + 8
    for step in range(120):
        pen.area((x + step, row), (x + step + 1, row + 14), mixed(_SCALE, step / 119))
    pen.text((x + 128, row - 2), f"{looks.high:.3g}", _INK)


def _course(pen: Pen, trace: Trace, looks: _Looks) -> None:
    """Fitness of each mark over the queries charged, and the running best."""
    charged = list(accumulate(one.cost for one in trace.entries))
    spread = (looks.high - looks.low) * 0.05
    panel = Panel(
        left=760,
        top=_TOP + 50,
        right=1400,
        bottom=_TOP + _SQUARE - 52,
        across=(0, charged[-1] + 1),
        down=(looks.high + spread, looks.low - spread),
    )
    _axes(pen, panel, looks)
    _generations(pen, panel, trace, charged)
    for at, one in zip(charged, trace.entries, strict=True):
        if math.isfinite(one.judgement.fitness):
            place = panel.at(at, one.judgement.fitness)
            pen.dot(place, looks.radius(one), looks.colour(one))
    _best(pen, panel, trace, charged)
    _first_error(pen, panel, trace, charged)
    _taken(pen, panel, trace, looks)


def _axes(pen: Pen, panel: Panel, looks: _Looks) -> None:
    pen.text((panel.left - 52, _TOP), looks.title, _INK)
    for value in ticks(looks.low, looks.high):
        at = panel.at(0, value)
        pen.line([at, (panel.right, at[1])], _RULE if value else _FAINT)
        pen.text((at[0] - 10, at[1]), f"{value:g}", _FAINT, size=14, anchor="rm")
    for value in ticks(1, panel.across[1], 8):
        x = panel.at(value, 0)[0]
        pen.line([(x, panel.bottom), (x, panel.bottom + 5)], _FAINT)
        pen.text((x, panel.bottom + 10), f"{value:g}", _FAINT, size=14, anchor="ma")
    corner = panel.left, panel.bottom
    pen.line([(panel.left, panel.top), corner, (panel.right, panel.bottom)], _FAINT)
    middle = (panel.left + panel.right) / 2, panel.bottom + 34
    pen.text(middle, looks.queries, _INK, anchor="ma")


def _generations(pen: Pen, panel: Panel, trace: Trace, charged: list[int]) -> None:
    """Rules between generations, numbered where there is room."""
    starts = [0] + [
        i
        for i in range(1, len(charged))
        if trace.entries[i].generation != trace.entries[i - 1].generation
    ]
    clear, row = -math.inf, panel.top - 20
    pen.text((panel.left - 4, row), "generation", _FAINT, size=13, anchor="ra")
    for i in starts:
        x = panel.at(charged[i] - 0.5, 0)[0]
        if i:
            pen.line([(x, panel.top), (x, panel.bottom)], _RULE, width=1.5)
        number = trace.entries[i].generation
        if x > clear:
            clear = x + 8 + pen.text((x + 4, row), f"{number}", _FAINT, size=13)


def _best(pen: Pen, panel: Panel, trace: Trace, charged: list[int]) -> None:
    """Draw the running best as a step line."""
    points: list[Point] = []
    best = math.inf
    for at, one in zip(charged, trace.entries, strict=True):
        if points:
            points.append(panel.at(at, best))
        best = min(best, one.judgement.fitness)
        if math.isfinite(best):
            points.append(panel.at(at, best))
    if len(points) > 1:
        pen.line(points, _BEST, width=2)


def _first_error(pen: Pen, panel: Panel, trace: Trace, charged: list[int]) -> None:
    first = trace.first_error
    if first is None:
        return
    x = panel.at(charged[first], 0)[0]
    pen.dashes((x, panel.top), (x, panel.bottom), _ERROR)


def _taken(pen: Pen, panel: Panel, trace: Trace, looks: _Looks) -> None:
    """Ring the mark that was taken, and say in words what it is."""
    charged = list(accumulate(one.cost for one in trace.entries))
    one = trace.entries[trace.result]
    if math.isfinite(one.judgement.fitness):
        pen.ring(panel.at(charged[trace.result], one.judgement.fitness), 9, _TAKEN)
    low, first = _TOP + _SQUARE + 20, trace.first_error
    x, members = panel.left - 52, len(trace.members)
    pen.ring((x + 10, low + 7), 7, _TAKEN)
    said = (
        f"taken: query {charged[trace.result]}, "
        f"{looks.name} {one.judgement.fitness:.3g}, "
        f"{one.judgement.wrong} of {members} models wrong, "
        f"opacity {one.candidate.alpha / 255:.0%}, "
        f"goal {'reached' if trace.success else 'NOT reached'} at full size"
    )
    pen.text((x + 30, low - 2), said, _INK)
    low += 36
    pen.line([(x, low + 7), (x + 22, low + 7)], _BEST, width=2)
    x += 30 + pen.text((x + 30, low - 2), "best so far", _INK) + 24
    pen.dashes((x, low + 7), (x + 22, low + 7), _ERROR, dash=3)
    error = (
        "never deceived" if first is None else f"first deceived: query {charged[first]}"
    )
    pen.text((x + 30, low - 2), error, _INK)
