"""Contact sheets: original, protected and difference under two windows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.corpus.draw import Line, Tile, draw_sheet
from benchmarks.corpus.expect import PROTECTED
from benchmarks.corpus.page import table
from benchmarks.corpus.rows import Row
from benchmarks.corpus.run import Result
from benchmarks.corpus.second import Second, second_window
from engine.rendering import render
from engine.types import Frame, Rendering
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import Reading, Source, read_source

GAIN: Final = 4
"""How much a difference is amplified."""

GREY_LEVEL: Final = 128
MOST_FRAMES: Final = 2000

INTRODUCTION: Final = """\
# Contact sheets: what protection looks like

Made by `make sheets` from a corpus run; the pictures stay out of the repository
because they are pictures of patients. One sheet per modality; each line an
example (the middle frame where there are several): original, protected and
difference, under the window that the protected object stores and under a second
one. The difference is {grey} + {gain} × (protected − original) in display levels,
so that {grey} is no change. Change: mean of |protected − original| over the
frame, in levels, under each window.
"""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One line of a sheet: two frames and the windows they are shown under."""

    row: Row
    original: Frame
    protected: Frame
    second: Second


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A pair of pictures under one window.

    ``original`` and ``protected`` are levels, ``(rows, columns[, 3])`` uint8.
    """

    original: NDArray[np.uint8]
    protected: NDArray[np.uint8]

    @property
    def difference(self) -> NDArray[np.uint8]:
        """Amplified difference around grey."""
        gap = self.protected.astype(np.int32) - self.original.astype(np.int32)
        shown: NDArray[np.uint8] = np.clip(GREY_LEVEL + GAIN * gap, 0, 255).astype(
            np.uint8
        )
        return shown

    @property
    def change(self) -> float:
        """Mean absolute difference, in levels."""
        gap = self.protected.astype(np.int32) - self.original.astype(np.int32)
        return float(np.abs(gap).mean())


def write_sheets(
    result: Result, directory: Path, out: Path, *, page: Path, examples: int
) -> list[Path]:
    """Draw a sheet per modality, and the page that says what is on them.

    Parameters
    ----------
    result
        Of a corpus run.
    directory
        Its folder, with originals and protected objects.
    out
        Where the sheets go.
    page
        The Markdown file.
    examples
        Most lines of one sheet.

    Returns
    -------
    list of Path
        The sheets.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn, told = [], []
    for modality, rows in sorted(_by_modality(result.rows).items()):
        lines = []
        for row in pick(rows, examples):
            example = example_of(row, directory)
            shown = list(shown_under(example))
            lines.append(_line(example, shown))
            told.append(_told(modality, example, shown))
        name = re.sub(r"\W+", "_", modality)
        path = out / f"{name}.png"
        title = f"{modality}: original, protected, difference x{GAIN}"
        draw_sheet(title, lines).save(path)
        drawn.append(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_page(told), "utf-8")
    return drawn


def _by_modality(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.outcome == PROTECTED and row.protected and row.rows:
            found[row.modality or "none"].append(row)
    return dict(found)


def pick(rows: Sequence[Row], most: int) -> list[Row]:
    """Choose examples of as many kinds as there are, the largest of each first.

    Parameters
    ----------
    rows
        Protected files of one modality.
    most
        How many at most.
    """
    kinds: defaultdict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda one: (-one.rows * one.columns, one.file)):
        kinds[row.photometric, row.bits_stored, row.signed, row.frames > 1].append(row)
    queues = sorted(kinds.values(), key=lambda queue: (-len(queue), queue[0].file))
    chosen: list[Row] = []
    for depth in range(len(rows)):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
    sizes: set[tuple[object, ...]] = set()
    fresh: list[Row] = []
    for row in chosen:
        # The packages hold one image in many encodings: each is shown once.
        look = row.photometric, row.bits_stored, row.rows, row.columns, row.frames
        if look not in sizes:
            sizes.add(look)
            fresh.append(row)
    return fresh[:most]


def example_of(row: Row, directory: Path) -> Example:
    """Read the middle frame of an original and of what became of it."""
    original = _source(directory / row.original)
    index = original.count // 2
    parts = row.protected
    split = len(parts) > 1
    protected = _source(directory / parts[index if split else 0])
    frame = original.frame(index)
    return Example(
        row=row,
        original=frame,
        protected=protected.frame(0 if split else index),
        second=second_window(original.dataset, frame, row.modality),
    )


def _source(path: Path) -> Source:
    octets = path.read_bytes()
    offset, syntax = data_set_offset(octets)
    reading = Reading(max_frames=MOST_FRAMES)
    return read_source(octets[offset:], syntax, reading=reading)


def shown_under(example: Example) -> Iterator[Shown]:
    """Yield both pictures under the stored window and under the second one."""
    first, second = example.original, example.protected
    # A protected multi-frame object may count stored values from elsewhere, and
    # downwards; windows relative to the stored one say the same in both.
    mirrored = first.rendering.inverted != second.rendering.inverted
    for window in (Second(), example.second):
        yield Shown(
            original=_levels(first, window),
            protected=_levels(second, window.mirrored() if mirrored else window),
        )


def _levels(frame: Frame, window: Second) -> NDArray[np.uint8]:
    stored = frame.rendering
    span = stored.hi - stored.lo
    return render(
        frame.stored,
        Rendering(
            lo=stored.lo + window.start * span,
            hi=stored.lo + window.end * span,
            inverted=stored.inverted,
        ),
    )


def _line(example: Example, shown: Sequence[Shown]) -> Line:
    row = example.row
    sign = " signed" if row.signed else ""
    several = f" x {row.frames}" if row.frames > 1 else ""
    name = row.file.split("/")[-1].split("!")[-1]
    caption = [
        name,
        f"{row.columns}x{row.rows}{several}",
        f"{row.bits_stored} bit{sign}, {row.photometric}",
        row.transfer_syntax,
        f"alpha {row.alpha / 255:.2f}, {row.custody}",
        f"misled: {row.misled} of {row.frames_reported} frames",
    ]
    tiles = []
    for pair, name in zip(shown, ("stored window", example.second.name), strict=True):
        tiles += [
            Tile(caption=f"original, {name}", levels=pair.original),
            Tile(caption=f"protected, {name}", levels=pair.protected),
            Tile(caption=f"difference, {name}", levels=pair.difference),
        ]
    return Line(caption=caption, tiles=tiles)


def _told(
    modality: str, example: Example, shown: Sequence[Shown]
) -> tuple[object, ...]:
    row = example.row
    return (
        modality,
        f"`{row.file}`",
        f"{row.columns}x{row.rows}" + (f" x {row.frames}" if row.frames > 1 else ""),
        f"{row.bits_stored}{' signed' if row.signed else ''}",
        row.photometric,
        f"{row.alpha / 255:.2f}",
        f"{row.misled} of {row.frames_reported}",
        f"{shown[0].change:.2f}",
        example.second.name,
        f"{shown[1].change:.2f}",
    )


def _page(told: Sequence[tuple[object, ...]]) -> str:
    headings = (
        "sheet",
        "file",
        "pixels",
        "bits",
        "photometric",
        "α",
        "misled",
        "change, stored window",
        "second window",
        "change, second window",
    )
    introduction = INTRODUCTION.format(grey=GREY_LEVEL, gain=GAIN)
    return f"{introduction}\n{table(headings, told)}"
