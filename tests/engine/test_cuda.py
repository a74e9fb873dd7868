"""What only an accelerator can show; left out where there is none."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch

from engine.models.ensemble import load_ensemble, packaged_ensembles
from engine.params import DeltaParams, ProtectParams, SearchParams
from engine.protection.protector import Protector
from engine.protection.values import ProtectedFrame
from engine.recover import recover
from engine.removal.remover import load_remover, packaged_removers
from engine.types import Frame, Rendering
from engine.watermark.logo import load_logo

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

QUICK = ProtectParams(
    delta=DeltaParams(iterations=8), search=SearchParams(budget=48, stop="never")
)


def _frames() -> list[Frame]:
    yy, xx = np.mgrid[:300, :260]
    head = 2000 * np.exp(-((((yy - 150) / 110) ** 2 + ((xx - 130) / 90) ** 2) ** 3))
    spot = 900 * np.exp(-(((yy - 120) / 12) ** 2 + ((xx - 160) / 15) ** 2))
    plain = head + 150 * np.sin(xx / 9) * np.cos(yy / 7)
    return [
        Frame(
            stored=np.clip(np.rint(levels), 0, 4095).astype(np.int32),
            rendering=Rendering(lo=0.0, hi=2600.0),
            minimum=0,
            maximum=4095,
        )
        for levels in (plain, plain + spot, np.roll(plain + spot, 9, axis=1))
    ]


def _protector(device: str) -> Protector:
    return Protector(
        ensemble=load_ensemble(packaged_ensembles()["brain-mri"], device),
        objective="diagnosis",
        removers=[load_remover(path, device) for path in packaged_removers().values()],
        logo=load_logo(),
        params=QUICK,
        device=device,
    )


def test_what_cuda_protects_comes_back_bit_for_bit_without_it() -> None:
    frames = _frames()
    seeds = [bytes([k]) for k in range(len(frames))]
    for frame, one in zip(
        frames, _protector("cuda").protect_many(frames, seeds=seeds), strict=True
    ):
        assert isinstance(one, ProtectedFrame)
        assert one.report.verified
        assert not np.array_equal(one.stored, frame.stored)
        np.testing.assert_array_equal(recover(one.stored, one.key), frame.stored)


def test_cuda_reads_images_as_the_processor_does() -> None:
    there, here = _protector("cuda"), _protector("cpu")
    for frame in _frames():
        images = [p.prepare(frame, seed=b"one") for p in (there, here)]
        said = [
            p.ensemble.probabilities(i.image[None])[0].detach().cpu()
            for p, i in zip((there, here), images, strict=True)
        ]
        torch.testing.assert_close(said[0], said[1], atol=2e-2, rtol=0.0)
        assert int(said[0].argmax()) == int(said[1].argmax())


def test_a_batch_gives_what_single_frames_give() -> None:
    protector = _protector("cuda")
    frames = _frames()
    seeds = [bytes([k]) for k in range(len(frames))]
    together = protector.protect_many(frames, seeds=seeds)
    for frame, seed, one in zip(frames, seeds, together, strict=True):
        alone = protector.protect(frame, seed=seed)
        assert isinstance(one, ProtectedFrame)
        assert one.report.before.label == alone.report.before.label
        # Shared batches round differently: an edge may move by a pixel or two.
        pairs = zip(one.report.lesion_boxes, alone.report.lesion_boxes, strict=True)
        for pair in pairs:
            here, there = map(astuple, pair)
            assert max(abs(a - b) for a, b in zip(here, there, strict=True)) <= 2
