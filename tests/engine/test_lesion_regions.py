"""Regions marked by someone else, on their way to the model grid."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidFrame, InvalidParameter
from engine.lesion.boxes import fill
from engine.lesion.localise import localise, relaxed
from engine.lesion.regions import ExternalRegions
from engine.params import LesionParams
from engine.types import Box
from engine.watermark.working import Geometry
from tests.engine.planted import planted_ensemble

SIDE = 224


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[int, int, Box]:
    columns, rows = draw(st.integers(32, 700)), draw(st.integers(32, 700))
    x0, y0 = draw(st.integers(0, columns - 1)), draw(st.integers(0, rows - 1))
    x1, y1 = draw(st.integers(x0 + 1, columns)), draw(st.integers(y0 + 1, rows))
    return columns, rows, Box(x0=x0, y0=y0, x1=x1, y1=y1)


@settings(deadline=None, max_examples=60)
@given(_boxes())
def test_every_touched_grid_pixel_is_inside(case: tuple[int, int, Box]) -> None:
    columns, rows, box = case
    boxed = ExternalRegions(rows=rows, columns=columns, boxes=[box]).on_grid(SIDE)
    mask = fill([box], (rows, columns))
    masked = ExternalRegions(rows=rows, columns=columns, mask=mask).on_grid(SIDE)
    # A grid pixel [i, i + 1) covers native [i * columns / G, (i + 1) * columns / G).
    i = np.arange(SIDE)
    across = (i * columns < box.x1 * SIDE) & ((i + 1) * columns > box.x0 * SIDE)
    down = (i * rows < box.y1 * SIDE) & ((i + 1) * rows > box.y0 * SIDE)
    expected = down[:, None] & across
    np.testing.assert_array_equal(fill(boxed.boxes, (SIDE, SIDE)), expected)
    np.testing.assert_array_equal(masked.mask, expected)
    # Taken back to native pixels, nothing of the lesion is left out.
    back = Geometry(columns=columns, rows=rows).native_box(boxed.boxes[0])
    assert back.x0 <= box.x0
    assert back.y0 <= box.y0
    assert back.x1 >= box.x1
    assert back.y1 >= box.y1


def _found(mode: Literal["add", "replace"]) -> tuple[list[Box], str]:
    picture = torch.full((3, SIDE, SIDE), 0.3)
    picture[:, 104:118, 102:120] = 0.9
    ensemble = planted_ensemble(picture, (0, 0, 20, 20))
    mask = np.zeros((448, 448), np.bool_)
    mask[400:420, 20:60] = True
    regions = ExternalRegions(
        rows=448,
        columns=448,
        boxes=[Box(x0=0, y0=0, x1=21, y1=10)],
        mask=mask,
        mode=mode,
    )
    params = LesionParams(margin=1)
    lesions = localise(ensemble, picture, 0, params, regions=regions)
    assert relaxed(lesions, params).given is lesions.given
    assert (lesions.forbidden | lesions.mask == lesions.forbidden).all()
    return list(lesions.boxes), lesions.source


def test_given_regions_are_added_or_stand_alone() -> None:
    own = [Box(x0=0, y0=0, x1=12, y1=6), Box(x0=9, y0=199, x1=31, y1=211)]
    assert _found("replace") == (own, "external")
    seen = Box(x0=101, y0=103, x1=121, y1=119)
    assert _found("add") == ([seen, *own], "cnn+external")


def test_given_regions_stand_in_for_a_missing_peak() -> None:
    flat = torch.zeros((3, SIDE, SIDE))
    ensemble = planted_ensemble(flat, (0, 0, 20, 20))
    box = Box(x0=10, y0=10, x1=20, y1=30)
    regions = ExternalRegions(rows=SIDE, columns=SIDE, boxes=[box])
    for params in (LesionParams(), LesionParams(fallback="refuse")):
        lesions = localise(ensemble, flat, 0, params, regions=regions)
        assert (lesions.boxes, lesions.source) == ((box,), "external")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "mark nothing"),
        ({"mask": np.zeros((40, 50), np.bool_)}, "mark nothing"),
        ({"mask": np.ones((50, 40), np.bool_)}, "shape"),
        ({"mask": np.ones((40, 50, 1), np.bool_)}, "shape"),
        ({"mask": np.full((40, 50), np.nan)}, "with NaN"),
        ({"mask": np.ones((40, 50), np.uint8)}, "need bool"),
        ({"boxes": [Box(x0=3, y0=3, x1=3, y1=9)]}, "empty"),
        ({"boxes": [Box(x0=3, y0=3, x1=51, y1=9)]}, "leaves the frame"),
        ({"boxes": [Box(x0=-1, y0=3, x1=5, y1=9)]}, "leaves the frame"),
        (
            {"boxes": [Box(x0=0, y0=0, x1=5, y1=9)], "mode": "merge"},
            "add or replace",
        ),
    ],
)
def test_unusable_regions_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        ExternalRegions(rows=40, columns=50, **arguments)


def test_regions_of_another_frame_are_refused() -> None:
    regions = ExternalRegions(rows=40, columns=50, boxes=[Box(x0=0, y0=0, x1=5, y1=9)])
    regions.check_frame((40, 50, 3))
    with pytest.raises(InvalidFrame, match="50x40"):
        regions.check_frame((50, 40))
