"""Many images at once, warm start, early stop, the noise control, devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.models.batches import OutOfMemory
from engine.params import DeltaParams
from engine.perturb.host import Batch, Host
from engine.perturb.objective import slope
from engine.perturb.pgd import State, craft_delta, craft_deltas
from engine.precision import computes_bfloat16, reduced_precision
from engine.removal.network import Removal
from tests.engine.perturb_small import AlteredRemover, TinyRemover, make_host, picture

EXACT = DeltaParams(precision="float32", iterations=6)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal but for gradients next to zero, whose sign a batch may turn."""
    return a.shape == b.shape and float((a == b).mean()) > 0.99


@pytest.mark.parametrize("kind", ["delta_d", "delta_i", "noise"])
@pytest.mark.parametrize("batch", [1, 2, 8])
def test_an_image_gets_the_same_delta_in_any_company(kind: str, batch: int) -> None:
    params = replace(EXACT, kind=kind)  # type: ignore[arg-type]
    removers = [TinyRemover(seed=0), TinyRemover(seed=1)]

    def hosts() -> list[Host]:
        shapes = [(1, 12, 10), (3, 12, 10), (1, 12, 10), (1, 9, 14), (1, 12, 10)]
        return [make_host(shape, seed=i) for i, shape in enumerate(shapes)]

    alone = [craft_delta(host, removers, params, host.composites) for host in hosts()]
    together = craft_deltas(hosts(), removers, params, batch=batch)
    turned = craft_deltas(hosts()[::-1], removers, params, batch=batch)[::-1]
    assert all(map(_same, alone, together))
    assert all(map(_same, alone, turned))
    assert not np.array_equal(alone[0], alone[2])


def test_no_images_no_deltas() -> None:
    assert craft_deltas([], [TinyRemover()], EXACT) == []


class Hungry(TinyRemover):
    """Has memory for so many pictures only."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> Removal:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("allocation failed")
        return super().forward(x)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    hosts = [make_host(seed=i) for i in range(5)]
    hungry = Hungry(most=4)
    made = craft_deltas(hosts, [hungry], EXACT, batch=5)
    assert all(map(_same, made, craft_deltas(hosts, [TinyRemover()], EXACT)))
    # Two views per host: 5 hosts do not fit, nor do 3; 2 do, then the last one.
    assert sorted(set(hungry.sizes)) == [2, 4, 10]
    assert hungry.sizes.count(10) == 1


def test_an_image_too_large_for_memory_is_a_clear_error() -> None:
    with pytest.raises(OutOfMemory, match=r"does not hold δ for one image.*12, 10"):
        craft_deltas([make_host(), make_host()], [Hungry(most=1)], EXACT)


def test_warm_start_starts_from_the_given_delta() -> None:
    host = make_host(image=picture(levels=(60, 190)))
    rng = np.random.default_rng(1)
    start = rng.integers(-6, 7, host.delta_shape).astype(np.int8)
    warm = replace(host, start=start)
    (same,) = craft_deltas([warm], [TinyRemover()], replace(EXACT, warm_iterations=0))
    np.testing.assert_array_equal(same, start)
    (near,) = craft_deltas([warm], [TinyRemover()], replace(EXACT, warm_iterations=1))
    assert set(np.unique(np.abs(near.astype(int) - start))) == {2}
    (small,) = craft_deltas([warm], [TinyRemover()], replace(EXACT, epsilon=3))
    assert np.abs(small.astype(int)).max() == 3


def test_warm_images_take_fewer_steps_than_cold_ones_beside_them() -> None:
    ticks: list[int] = []
    cold = make_host()
    warm = replace(cold, start=np.zeros(cold.delta_shape, np.int8))
    params = replace(EXACT, iterations=9, warm_iterations=4)
    craft_deltas([cold, warm, cold], [TinyRemover()], params, tick=ticks.append)
    assert sorted(ticks) == [1] * 4 + [2] * 9


def test_early_stop_stops_what_gets_no_better_and_only_that() -> None:
    ticks: list[int] = []
    free = make_host(seed=1, image=picture(seed=1, levels=(60, 190)))
    guard = torch.ones(12, 10, dtype=torch.bool)
    guard[5, 5] = False
    stuck = replace(free, frozen=guard)
    params = replace(
        EXACT, host="clean", epsilon=40, iterations=12, patience=3, min_gain=0.1
    )
    both = craft_deltas([stuck, free], [TinyRemover()], params, tick=ticks.append)
    assert ticks == [2] * 5 + [1] * 7
    # One pixel changes the loss too little, but what it has moved is kept.
    assert abs(both[0][5, 5]) == 10
    assert np.count_nonzero(both[0]) == 1
    (alone,) = craft_deltas([free], [TinyRemover()], params)
    assert np.abs(alone.astype(int)).max() == 24
    assert _same(both[1], alone)


def test_patience_0_never_stops_and_marks_are_all_seen_before_stopping() -> None:
    stuck = replace(make_host(), frozen=torch.ones(12, 10, dtype=torch.bool))
    for patience, host, steps in ((0, "clean", 30), (1, "clean", 5), (1, "mix", 10)):
        ticks: list[int] = []
        params = replace(
            EXACT,
            iterations=30,
            patience=patience,
            host=host,  # type: ignore[arg-type]
        )
        many = replace(stuck, composites=stuck.composites * 2)
        craft_deltas([many], [TinyRemover()], params, tick=ticks.append)
        assert len(ticks) == steps


def test_noise_is_uniform_seeded_bounded_and_asks_no_network() -> None:
    shape = (1, 150, 200)
    grey = torch.full(shape, 128 / 255)
    host = make_host(shape, image=grey, composites=())
    params = DeltaParams(kind="noise", iterations=0)
    (noise,) = craft_deltas([host], [Hungry(most=0)], params)
    counts = np.bincount(noise.ravel().astype(int) + 8, minlength=17)
    # Uniform between -8 and 8: the two end levels catch half a level each.
    expected = noise.size / 16 * np.array([0.5] + [1.0] * 15 + [0.5])
    assert np.abs(counts - expected).max() < 5 * np.sqrt(noise.size / 16)
    again, other = (
        craft_deltas([replace(host, generator=np.random.default_rng(s))], [], params)[0]
        for s in (0, 1)
    )
    np.testing.assert_array_equal(noise, again)
    assert not np.array_equal(noise, other)


def test_kind_none_is_zero_and_asks_no_network() -> None:
    (none,) = craft_deltas([make_host()], [Hungry(most=0)], DeltaParams(kind="none"))
    assert not none.any()


@pytest.mark.parametrize("combine", ["loss", "gradient"])
def test_a_step_stays_on_the_device_and_reads_nothing_back(combine: str) -> None:
    params = replace(EXACT, combine=combine, patience=3)  # type: ignore[arg-type]
    # Meta tensors have no values: whoever reads one, or brings a tensor of
    # another device, fails.
    with torch.device("meta"):
        image = torch.zeros(2, 1, 12, 10)
        marked = torch.zeros(3, 2, 1, 12, 10)
        state = State(
            places=torch.arange(2),
            batch=Batch(
                image=image,
                target=image,
                low=image,
                high=image,
                keep=marked,
                add=marked,
                clean=True,
            ),
            delta=image,
            velocity=torch.zeros_like(image),
            best=torch.zeros(2),
            waited=torch.zeros(2),
            finite=torch.ones((2, 2), dtype=torch.bool),
        )
    removers = [TinyRemover(seed=i).to("meta") for i in range(2)]
    here = slope(state.batch, state.delta, removers, params, 4)
    state.move(here, params)
    assert state.delta.is_meta
    assert state.delta.shape == here.gradient.shape == image.shape
    assert here.losses.shape == state.finite.shape == (2, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_makes_nearly_the_delta_of_the_processor() -> None:
    hosts = [make_host(seed=i) for i in range(3)]
    there = [
        replace(
            host,
            image=host.image.cuda(),
            frozen=host.frozen.cuda(),
            composites=tuple((k.cuda(), a.cuda()) for k, a in host.composites),
        )
        for host in hosts
    ]
    made = craft_deltas(there, [TinyRemover().cuda()], EXACT)
    for a, b in zip(made, craft_deltas(hosts, [TinyRemover()], EXACT), strict=True):
        assert float((a == b).mean()) > 0.95


@pytest.mark.parametrize(
    ("device", "able", "expected"),
    [
        ("cpu", {"avx512_bf16": True}, True),
        ("cpu", {"amx_bf16": True}, True),
        ("cpu", {"avx2": True}, False),
        ("meta", {"avx512_bf16": True}, False),
        ("cuda", {"avx512_bf16": True}, False),
    ],
)
def test_bfloat16_is_used_only_where_the_device_computes_it(
    device: str,
    able: dict[str, bool],
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert computes_bfloat16(torch.device(device)) is expected
    with reduced_precision(torch.device(device)):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert (product.dtype == torch.bfloat16) is (expected and device == "cpu")


@pytest.mark.parametrize("native", [True, False])
def test_cuda_devices_that_only_emulate_bfloat16_do_without(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(*, including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert computes_bfloat16(torch.device("cuda")) is native


def test_float32_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})

    def dtype(x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append((x @ x.transpose(-1, -2)).dtype)
        return x, mask

    remover = AlteredRemover(dtype)
    for precision in ("float32", "auto"):
        params = replace(EXACT, iterations=1, precision=precision)  # type: ignore[arg-type]
        craft_deltas([make_host()], [remover], params)
    assert seen == [torch.float32, torch.bfloat16]
