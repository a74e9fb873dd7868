"""ROC curves as an SVG drawing, one panel per model (the paper's Fig. 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.metrics import Roc

_SIDE: Final = 150
_GAP: Final = 40
_COLUMNS: Final = 3
_BLUE, _RED = "#1f5fbf", "#c0392b"


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One model: its curve on originals and on marked pictures."""

    title: str
    original: Roc
    marked: Roc


def draw_panels(panels: Sequence[Panel]) -> str:
    """Draw the curves: originals blue, marked red, chance dotted.

    Parameters
    ----------
    panels
        At least one.

    Returns
    -------
    str
        An SVG document.
    """
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // _COLUMNS)
    pitch = _SIDE + _GAP
    width, height = columns * pitch + _GAP, rows * (pitch + 10) + _GAP
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
            f'height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="11">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i, panel in enumerate(panels):
        x = _GAP + (i % _COLUMNS) * pitch
        y = 24 + (i // _COLUMNS) * (pitch + 10)
        parts.append(f'<g transform="translate({x} {y})">{_panel(panel)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> str:
    s = _SIDE
    note = f"AUC {panel.original.area:.3f} → {panel.marked.area:.3f}"
    return "".join(
        [
            f'<text x="0" y="-8" font-weight="bold">{escape(panel.title)}</text>',
            f'<rect width="{s}" height="{s}" fill="none" stroke="#888"/>',
            f'<path d="M0 {s}L{s} 0" stroke="black" stroke-dasharray="2 3"/>',
            _curve(panel.original, _BLUE),
            _curve(panel.marked, _RED),
            f'<text x="{s - 4}" y="{s - 6}" text-anchor="end">{note}</text>',
            (
                f'<text x="{s / 2}" y="{s + 14}" text-anchor="middle">'
                "false positive rate</text>"
            ),
            (
                f'<text transform="translate(-8 {s / 2}) rotate(-90)" '
                'text-anchor="middle">true positive rate</text>'
            ),
        ]
    )


def _curve(roc: Roc, colour: str) -> str:
    xs = np.round(roc.false_positive * _SIDE, 1)
    ys = np.round((1 - roc.true_positive) * _SIDE, 1)
    points = " ".join(f"{x:g},{y:g}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}"/>'
