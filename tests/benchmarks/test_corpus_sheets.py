"""Contact sheets show originals and what became of them, of many kinds."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from benchmarks.corpus.run import Result
from benchmarks.corpus.second import DARK, WIDER, Second, second_window
from benchmarks.corpus.sheets import GREY_LEVEL, Shown, pick, write_sheets
from engine.types import Frame, Rendering
from tests.benchmarks.test_corpus_promises import FACTS, GOOD

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.corpus.rows import Row


def ct_run(directory: Path) -> Result:
    """A run of one real CT, its protected object with a bright square."""
    path = get_testdata_file("CT_small.dcm", read=False, download=False)
    ds = dcmread(str(path))
    (directory / "original.dcm").write_bytes(_encoded(ds))
    pixels = ds.pixel_array.copy()
    pixels[20:60, 20:60] += 300
    ds.PixelData = pixels.tobytes()
    (directory / "protected.dcm").write_bytes(_encoded(ds))
    row = replace(
        GOOD,
        file="pydicom/CT_small.dcm",
        rows=128,
        columns=128,
        original="original.dcm",
        protected=("protected.dcm",),
    )
    return Result(rows=[row], strays=[], facts=FACTS)


def _encoded(ds: object) -> bytes:
    stream = BytesIO()
    ds.save_as(stream, enforce_file_format=True)  # type: ignore[attr-defined]
    return stream.getvalue()


def test_a_sheet_per_modality_is_drawn_and_told_of(tmp_path: Path) -> None:
    result = ct_run(tmp_path)
    page = tmp_path / "sheets.md"
    drawn = write_sheets(result, tmp_path, tmp_path / "out", page=page, examples=6)
    assert [path.name for path in drawn] == ["CT.png"]
    with Image.open(drawn[0]) as sheet:
        colours = np.asarray(sheet)
    assert colours.shape[1] > 6 * 280
    assert (colours == GREY_LEVEL).all(axis=2).sum() > 280 * 140
    told = page.read_text("utf-8")
    assert "| CT | `pydicom/CT_small.dcm` | 128x128 |" in told
    assert "bone" in told or "narrow" in told


def test_the_difference_is_grey_where_nothing_changed() -> None:
    same = np.full((4, 4), 77, np.uint8)
    shown = Shown(original=same, protected=same)
    assert (shown.difference == GREY_LEVEL).all()
    assert shown.change == 0
    brighter = Shown(original=same, protected=same + 5)
    assert (brighter.difference == GREY_LEVEL + 20).all()
    assert brighter.change == 5


def rows(*kinds: tuple[str, int, int]) -> list[Row]:
    return [
        replace(GOOD, file=f"p/{n}", photometric=name, bits_stored=bits, rows=side)
        for n, (name, bits, side) in enumerate(kinds)
    ]


def test_examples_are_of_many_kinds_and_each_look_comes_once() -> None:
    found = rows(
        ("RGB", 8, 64), ("RGB", 8, 64), ("RGB", 8, 99), ("MONOCHROME1", 12, 64)
    )
    names = [row.file for row in pick(found, 6)]
    assert names == ["p/2", "p/3", "p/0"]
    assert len(pick(found, 2)) == 2


def frame(lo: float, hi: float, *, colour: bool = False) -> Frame:
    shape = (32, 32, 3) if colour else (32, 32)
    return Frame(
        stored=np.zeros(shape, np.int32),
        rendering=Rendering(lo=lo, hi=hi),
        minimum=0,
        maximum=4095,
    )


def test_ct_is_shown_under_bone_or_narrow_others_wider_colour_darker() -> None:
    ds = dcmread(str(get_testdata_file("CT_small.dcm", read=False, download=False)))
    narrow = second_window(ds, frame(1000, 1400), "CT")
    assert narrow.name.startswith("bone")
    # HU = stored - 1024: the lower end of 480/2500 is stored 254.
    assert 1000 + narrow.start * 400 == pytest.approx(480 - 0.5 - 1249.5 + 1024)
    assert second_window(ds, frame(0, 3000), "CT").name.startswith("narrow")
    assert second_window(ds, frame(0, 3000), "MR") == WIDER
    assert second_window(ds, frame(0, 255, colour=True), "US") == DARK


def test_a_mirrored_window_is_the_same_from_the_other_end() -> None:
    window = Second(name="w", start=-0.5, end=0.25)
    assert window.mirrored() == Second(name="w", start=0.75, end=1.5)
