"""Eqs. 1, 3 and 4: losses, the step and its sign, bounds, several removers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data

from engine.params import DeltaParams, SearchParams
from engine.params.delta import Combine, HostKind, Kind, Order
from engine.perturb.composites import random_composites
from engine.perturb.host import Host, quantise, stack_hosts
from engine.perturb.objective import removal_loss
from engine.perturb.pgd import craft_delta, craft_deltas
from engine.removal.network import Removal
from engine.removal.remover import load_remover, packaged_removers
from engine.watermark.logo import load_logo
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry
from tests.engine.perturb_small import (
    AlteredRemover,
    TinyRemover,
    make_host,
    marks,
    picture,
)

EXACT = DeltaParams(precision="float32")


def _craft(host: Host, params: DeltaParams, *removers: Any) -> np.ndarray:
    (delta,) = craft_deltas([host], removers or (TinyRemover(),), params)
    return delta


def _shifted(host: Host, delta: np.ndarray) -> torch.Tensor:
    planes = delta[None] if delta.ndim == 2 else delta.transpose(2, 0, 1)
    shown = host.image + torch.from_numpy(np.ascontiguousarray(planes)).float() / 255
    return shown.expand(3, -1, -1)[None]


@given(
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(3, 9), st.integers(3, 9)),
    seed=st.integers(0, 2**16),
    extreme=st.booleans(),
    warm=st.booleans(),
    params=st.builds(
        DeltaParams,
        kind=st.sampled_from(get_args(Kind)),
        host=st.sampled_from(get_args(HostKind)),
        combine=st.sampled_from(get_args(Combine)),
        order=st.sampled_from(get_args(Order)),
        epsilon=st.integers(0, 20),
        step=st.floats(0.25, 30),
        iterations=st.integers(0, 4),
        warm_iterations=st.integers(0, 4),
        momentum=st.sampled_from([None, 0.0, 0.9]),
        patience=st.integers(0, 2),
    ),
)
@settings(max_examples=80, deadline=None)
def test_delta_is_bounded_whatever_is_asked(
    shape: tuple[int, int, int],
    seed: int,
    extreme: bool,
    warm: bool,
    params: DeltaParams,
) -> None:
    rng = np.random.default_rng(seed)
    image = picture(shape, seed=seed)
    if extreme:
        image = image.round()
    host = make_host(
        shape,
        seed=seed,
        image=image,
        target=picture(shape, seed=seed + 1),
        frozen=torch.from_numpy(rng.random(shape[1:]) < 0.3),
    )
    if warm:
        start = rng.integers(-128, 128, host.delta_shape).astype(np.int8)
        host = replace(host, start=start)
    delta = _craft(host, params)
    assert delta.dtype == np.int8
    assert delta.shape == host.delta_shape
    assert np.abs(delta.astype(int)).max() <= params.epsilon
    assert not delta[host.frozen.numpy()].any()
    moved = np.rint(image.numpy() * 255).transpose(1, 2, 0)
    moved = moved + delta.reshape(moved.shape)
    assert moved.min() >= 0
    assert moved.max() <= 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "sign"), [("delta_d", 1), ("delta_i", -1)])
def test_one_step_of_eq_1_moves_every_entry_by_two_levels_along_the_gradient(
    channels: int, kind: Literal["delta_d", "delta_i"], sign: int
) -> None:
    shape = (channels, 12, 10)
    host = make_host(shape, image=picture(shape, levels=(60, 190)))
    params = replace(EXACT, kind=kind, host="clean", iterations=1)
    delta = _craft(host, params)

    variable = host.image.clone().requires_grad_()
    removal = TinyRemover()(variable.expand(3, -1, -1)[None])
    error = ((removal.image - host.image) ** 2).mean()
    loss = error if kind == "delta_d" else 2 * error + (removal.mask**2).mean()
    loss.backward()
    assert variable.grad is not None
    expected = 2 * sign * variable.grad.sign().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(delta.reshape(expected.shape), expected)


@pytest.mark.parametrize("kind", ["clean", "rand", "mix"])
def test_many_steps_are_those_of_the_equation_written_down(kind: HostKind) -> None:
    host = make_host(image=picture(levels=(0, 255)))
    params = replace(EXACT, host=kind, iterations=7)
    image, remover = host.image, TinyRemover()
    delta, velocity = torch.zeros_like(image), torch.zeros_like(image)
    for t in range(7):
        delta.requires_grad_()
        shown = (image + delta).expand(3, -1, -1)
        keep, add = host.composites[t % 3]
        marked = shown * keep + add
        seen = {"clean": [shown], "rand": [marked], "mix": [shown, marked]}[kind]
        loss = (remover(torch.stack(seen)).image - image).square().mean()
        (gradient,) = torch.autograd.grad(loss, delta)
        inertia = 1.0 if kind == "mix" else 0.0
        velocity = inertia * velocity + gradient / gradient.abs().mean()
        moved = (delta.detach() + 2 / 255 * velocity.sign()).clamp(-8 / 255, 8 / 255)
        delta = (image + moved).clamp(0, 1) - image
    expected = (delta * 255).round()[0].numpy()
    assert (_craft(host, params) == expected).mean() > 0.99


def test_eq_4_weighs_the_picture_by_gamma_and_counts_the_mask() -> None:
    image = torch.full((4, 3, 2, 2), 0.5)
    mask = torch.full((4, 1, 2, 2), 0.2)
    image[2:] = 0.9
    removal = Removal(image=image, mask=mask, alpha=mask, watermark=image)
    target = torch.full((2, 1, 2, 2), 0.4)
    disrupt = removal_loss(removal, target, DeltaParams())
    torch.testing.assert_close(disrupt, torch.tensor([0.01, 0.25]))
    immune = removal_loss(removal, target, DeltaParams(kind="delta_i", gamma=3.0))
    expected = torch.tensor([3 * 0.01 + 0.04, 3 * 0.25 + 0.04]) / 2
    torch.testing.assert_close(immune, expected)


@pytest.mark.parametrize("host_kind", ["clean", "mix"])
@pytest.mark.parametrize(("kind", "sign"), [("delta_d", 1), ("delta_i", -1)])
def test_delta_d_raises_its_loss_and_delta_i_lowers_its(
    kind: Kind, sign: int, host_kind: HostKind
) -> None:
    host = make_host()
    params = replace(EXACT, kind=kind, host=host_kind, iterations=20)

    def loss(delta: np.ndarray) -> float:
        shown = _shifted(host, delta)
        marked = [shown * keep + add for keep, add in host.composites]
        seen = [shown] if host_kind == "clean" else [shown.expand(3, -1, -1, -1)]
        removal = TinyRemover()(torch.cat(seen + marked * (host_kind == "mix")))
        return float(removal_loss(removal, host.image[None], params))

    nothing = loss(np.zeros(host.delta_shape, np.int8))
    noise = loss(_craft(host, replace(params, kind="noise")))
    made = loss(_craft(host, params))
    assert sign * (made - nothing) > 0
    assert sign * (made - noise) > 0


def test_after_aims_at_the_original_and_shows_the_marked_picture_as_it_is() -> None:
    original, marked = picture(seed=1), picture(seed=2)
    host = make_host(image=marked, target=original, composites=())
    after = _craft(host, replace(EXACT, order="after", iterations=1))
    variable = marked.clone().requires_grad_()
    removal = TinyRemover()(variable.expand(3, -1, -1)[None])
    ((removal.image - original) ** 2).mean().backward()
    assert variable.grad is not None
    wanted = 2 * variable.grad.sign()[0].numpy()
    free = (marked[0].numpy() > 0.02) & (marked[0].numpy() < 0.98)
    np.testing.assert_array_equal(after[free], wanted[free])


@pytest.mark.parametrize("combine", get_args(Combine))
def test_a_remover_counts_the_same_however_large_its_loss(combine: Combine) -> None:
    host = make_host()
    params = replace(EXACT, combine=combine, iterations=4)

    def louder(image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return host.image + 30 * (image - host.image), mask

    other = TinyRemover(seed=1)
    both = _craft(host, params, TinyRemover(), other)
    np.testing.assert_array_equal(
        _craft(host, params, AlteredRemover(louder), other), both
    )
    assert not np.array_equal(both, _craft(host, params, TinyRemover()))
    assert not np.array_equal(both, _craft(host, params, other))


def test_grey_pictures_get_one_plane_that_every_channel_follows() -> None:
    grey = make_host((1, 12, 10), composites=marks((3, 12, 10)))
    assert _craft(grey, replace(EXACT, iterations=3)).shape == (12, 10)
    wide = replace(
        grey,
        image=grey.image.expand(3, -1, -1).contiguous(),
        composites=grey.composites,
    )
    colour = _craft(wide, replace(EXACT, iterations=3))
    assert colour.shape == (12, 10, 3)
    assert (colour[..., 0] != colour[..., 1]).any()


def test_rounding_keeps_levels_in_range_where_delta_alone_would_not() -> None:
    image = torch.tensor([254.0, 253.5, 3.0, 250.0]).reshape(1, 1, 1, 4) / 255
    wanted = torch.tensor([8.0, 1.5, -8.0, 9.6]).reshape(1, 1, 1, 4) / 255
    (delta,) = quantise(wanted, image, epsilon=8)
    # 253.5 shows as level 254, and 1.5 rounds to 2.
    np.testing.assert_array_equal(delta, [[1, 1, -3, 5]])


def test_every_step_keeps_the_picture_in_range() -> None:
    hosts = [make_host(seed=i) for i in range(3)]
    batch = stack_hosts(hosts, EXACT)
    for far in (-1.0, 1.0):
        moved = batch.image + batch.project(torch.full_like(batch.image, far))
        assert moved.min() >= 0
        assert moved.max() <= 1


def _real_host() -> Host:
    levels = data.microaneurysms()
    rows, columns = levels.shape
    return Host(
        image=torch.from_numpy(levels.astype(np.float32) / 255)[None],
        frozen=torch.zeros((rows, columns), dtype=torch.bool),
        composites=tuple(_real_marks(0, 4)),
        generator=np.random.default_rng(0),
    )


def _real_marks(seed: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows, columns = data.microaneurysms().shape
    geometry = Geometry(columns=columns, rows=rows, side=rows)
    maker = PatchMaker(logo=load_logo(), geometry=geometry, sl=2.0, grey=True)
    rng = np.random.default_rng(seed)
    device = torch.device("cpu")
    return random_composites(maker, SearchParams(), rng, device, count=count)


@pytest.mark.parametrize("name", sorted(packaged_removers()))
def test_noise_of_the_same_size_does_little_to_a_real_remover(name: str) -> None:
    remover = load_remover(packaged_removers()[name])
    host = _real_host()
    unseen = _real_marks(9, 2)

    def error(delta: np.ndarray) -> float:
        shown = _shifted(host, delta)[0]
        seen = torch.stack([shown * keep + add for keep, add in unseen])
        with torch.no_grad():
            return float((remover(seen).image - host.image).square().mean())

    params = DeltaParams(iterations=10)
    noise = error(_craft(host, replace(params, kind="noise"), remover))
    assert error(craft_delta(host, [remover], params, host.composites)) > 2 * noise
