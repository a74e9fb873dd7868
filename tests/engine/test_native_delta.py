"""δ at the resolution of the frame, by request."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidParameter
from engine.params import DeltaParams, ProtectParams, SearchParams
from engine.perturb.host import Host
from engine.perturb.pgd import craft_deltas
from engine.protection.protector import Protector
from engine.recover import recover
from engine.types import Frame, Rendering
from engine.watermark.working import GRID, Geometry, working_image
from tests.engine.planted import PlantedRemover, planted_ensemble
from tests.engine.searching import LOGO

CPU = torch.device("cpu")


def _frame(rows: int, columns: int) -> Frame:
    yy, xx = np.mgrid[:rows, :columns]
    stored = np.rint(2000 + 900 * np.sin(xx / 13) * np.cos(yy / 17)).astype(np.int32)
    return Frame(
        stored=stored, rendering=Rendering(lo=0.0, hi=4095.0), minimum=0, maximum=4095
    )


@pytest.mark.parametrize(
    ("size", "shape"), [((300, 260), (300, 260)), ((600, 520), (512, 512))]
)
def test_delta_is_as_fine_as_the_frame_and_comes_off_again(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    frame = _frame(*size)
    clean = working_image(frame.stored, frame.rendering, CPU)
    delta = DeltaParams(iterations=2, resolution="native")
    protector = Protector(
        ensemble=planted_ensemble(clean, (120, 150, 170, 190), threshold=0.06),
        objective="diagnosis",
        removers=[PlantedRemover()],
        logo=LOGO,
        params=ProtectParams(delta=delta, search=SearchParams(budget=8)),
    )
    one = protector.protect(frame, seed=b"one")
    assert one.key.delta.shape == shape
    assert one.report.verified
    assert 0 < one.report.delta_max <= 8
    np.testing.assert_array_equal(recover(one.stored, one.key), frame.stored)
    for box in one.report.lesion_boxes:
        part = slice(box.y0, box.y1), slice(box.x0, box.x1)
        np.testing.assert_array_equal(one.stored[part], frame.stored[part])
    plain = protector.variant(delta=replace(delta, resolution="grid"))
    grid = plain.prepare(frame, seed=b"one").delta
    assert grid.shape == (GRID, GRID)


@given(st.integers(32, 3000), st.integers(32, 3000), st.sampled_from([0, 512]))
def test_delta_is_never_finer_than_the_frame(
    rows: int, columns: int, finest: int
) -> None:
    geometry = Geometry(columns=columns, rows=rows, finest=finest)
    most = finest or GRID
    assert geometry.delta_shape() == (min(rows, most), min(columns, most))


def test_large_pictures_share_a_pass_with_fewer_others() -> None:
    seen: list[int] = []

    class Counting(PlantedRemover):
        def forward(self, x: torch.Tensor) -> object:
            seen.append(len(x))
            return super().forward(x)

    hosts = [
        Host(
            image=torch.full((1, side, side), 0.5),
            frozen=torch.zeros((side, side), dtype=torch.bool),
        )
        for side in (64, 320)
        for _ in range(5)
    ]
    params = DeltaParams(iterations=1, host="clean", precision="float32")
    craft_deltas(hosts, [Counting()], params, batch=4)
    # Five of 64 pixels a side: four and one; of 320, 4 * 224² / 320² = 1 each.
    assert seen == [4, 1, 1, 1, 1, 1, 1]


def test_an_unknown_resolution_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="grid, native"):
        DeltaParams(resolution="fine")  # type: ignore[arg-type]
