"""The weights the package ships: whole, described, small enough, still good."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from engine.models.ensemble import Ensemble, load_ensemble, packaged_ensembles
from engine.models.families import PRESETS
from engine.removal.composites import Composite, Marker, MarkRanges
from engine.removal.measure import quality
from engine.removal.remover import Remover, load_remover, packaged_removers

LABELS = ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor")
LIMIT = 32_000_000
"""Bytes the weights of all classifiers together may take."""
REMOVER_LIMIT = 12_000_000
"""The same for the removers."""


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return load_ensemble(packaged_ensembles()["brain-mri"])


@pytest.fixture(scope="module")
def remover() -> Remover:
    return load_remover(packaged_removers()["wdnet"])


def phantom(n: int = 4, side: int = 224) -> torch.Tensor:
    """Gray discs with a smooth texture and a bright spot, ``(n, 3, side, side)``."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[:side, :side] / side - 0.5
    images = []
    for _ in range(n):
        head = (x / 0.36) ** 2 + (y / 0.44) ** 2 < 1
        waves = sum(
            np.sin(2 * np.pi * (a * x + b * y) + c)
            for a, b, c in rng.uniform(-6, 6, (5, 3))
        )
        cx, cy = rng.uniform(-0.2, 0.2, 2)
        spot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.004)
        images.append(head * np.clip(0.35 + 0.04 * waves + 0.4 * spot, 0, 1))
    levels = np.rint(np.stack(images) * 255) / 255
    return torch.from_numpy(levels).float()[:, None].expand(-1, 3, -1, -1).clone()


def slices() -> torch.Tensor:
    """Real MR slices of another origin, ``(3, 3, 224, 224)`` in [0, 1]."""
    file = Path(nibabel.__file__).parent / "tests" / "data" / "anatomical.nii"
    volume = np.asarray(nibabel.load(file).dataobj, dtype=np.float64)
    low, high = np.percentile(volume, [0, 99.5])
    levels = np.clip((volume - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    pictures = [
        Image.fromarray(np.rot90(levels[:, :, k])).resize((224, 224))
        for k in (8, 12, 16)
    ]
    stack = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
    return (stack.float() / 255)[:, None].expand(-1, 3, -1, -1).clone()


def weight_files() -> list[Path]:
    folders = packaged_ensembles().values()
    return [file for folder in folders for file in folder.glob("*.safetensors")]


def remover_files() -> list[Path]:
    folders = packaged_removers().values()
    return [file for folder in folders for file in folder.glob("*.safetensors")]


def test_members_are_of_the_six_families(ensemble: Ensemble) -> None:
    small = {p.name: p for p in PRESETS if p.key.startswith("small:")}
    assert set(ensemble.names) == set(small)
    for member in ensemble.members:
        preset = small[member.name]
        assert member.family == preset.family
        assert member.card.architecture == preset.architecture
        assert member.card.architecture_arguments == preset.arguments
        assert member.input_size == preset.input_size
    assert ensemble.labels == LABELS


def test_members_see_different_sizes(ensemble: Ensemble) -> None:
    assert {m.input_size for m in ensemble.members} == {128, 144}
    assert ensemble.probabilities(phantom(2, side=224)).shape == (2, 4)


def test_the_best_member_is_right_on_most_test_images(ensemble: Ensemble) -> None:
    values = [m.card.accuracy.value for m in ensemble.members if m.card.accuracy]
    assert len(values) == 6
    assert max(values) >= 0.85


def test_cams_of_all_members_are_fine_enough_for_a_box(ensemble: Ensemble) -> None:
    for member in ensemble.members:
        seen: list[torch.Tensor] = []
        layer = member.cam_target_layers[0]
        hook = layer.register_forward_hook(
            lambda _m, _i, out, seen=seen: seen.append(out)
        )
        member(phantom(1))
        hook.remove()
        maps = member.cam_reshape(seen[0]) if member.cam_reshape else seen[0]
        assert maps.shape[-2] == maps.shape[-1] == member.input_size // 16


def test_all_weights_together_stay_small() -> None:
    files = weight_files()
    assert len(files) >= 6
    assert sum(file.stat().st_size for file in files) <= LIMIT
    assert sum(file.stat().st_size for file in remover_files()) <= REMOVER_LIMIT


def test_every_member_states_how_good_it_is(ensemble: Ensemble) -> None:
    for member in ensemble.members:
        card = member.card
        assert card.accuracy is not None
        assert card.accuracy.total == card.sizes["test"] == 614
        assert card.accuracy.value >= 0.8
        assert card.licence
        assert card.data
        assert card.recipe
    initial = {m.name: m.card.initial_weights for m in ensemble.members}
    assert "Apache-2.0" in initial.pop("mobile")
    assert not any(initial.values())


def test_members_generalise_alike_to_size(ensemble: Ensemble) -> None:
    # A prediction must not hang on the size an image happens to have.
    small, large = phantom(side=224), phantom(side=448)
    a, b = ensemble.probabilities(small), ensemble.probabilities(large)
    torch.testing.assert_close(a, b, atol=0.1, rtol=0)


def test_remover_states_how_good_it_is(remover: Remover) -> None:
    measures = remover.card.measures
    assert measures["psnr_in_mark_after"] > measures["psnr_in_mark_before"] + 8
    assert measures["psnr_after"] > measures["psnr_before"] + 4


def marked(colour: bool) -> Composite:
    ranges = MarkRanges(sl=(2.0, 2.5), alpha=(0.3, 0.6), logos=1.0)
    host = slices()
    if colour:
        host = host * torch.tensor([1.0, 0.8, 0.7])[:, None, None]
    return Marker(ranges).composite(host, np.random.default_rng(4))


@pytest.mark.parametrize("colour", [False, True])
def test_remover_takes_a_mark_off_images_of_another_origin(
    remover: Remover, colour: bool
) -> None:
    measured = quality(remover, marked(colour))
    gain = measured["psnr_in_mark_after"] - measured["psnr_in_mark_before"]
    assert float(gain.mean()) > 4
    assert float(measured["mask_iou"].mean()) > 0.6


def test_remover_leaves_plain_images_alone(remover: Remover) -> None:
    x = slices()
    assert float((remover(x).image - x).abs().mean()) < 0.01
