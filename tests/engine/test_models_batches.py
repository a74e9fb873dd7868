"""Batches in parts: the same result, smaller parts where memory is short."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import EngineError
from engine.models.batches import Batches, OutOfMemory, in_batches

FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"),
    MemoryError(),
)


class Limited:
    """Doubles its argument, but at most `limit` rows at a time."""

    def __init__(self, limit: int, error: BaseException = FULL[0]) -> None:
        self.limit = limit
        self.error = error
        self.sizes: list[int] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.limit:
            raise self.error
        return x * 2


@settings(deadline=None)
@given(n=st.integers(1, 20), size=st.integers(1, 25), limit=st.integers(1, 25))
def test_parts_give_what_the_whole_gives(n: int, size: int, limit: int) -> None:
    x = torch.arange(n * 2.0).view(n, 2)
    torch.testing.assert_close(in_batches(Limited(limit), x, size), x * 2)


@pytest.mark.parametrize("error", FULL, ids=lambda e: type(e).__name__)
def test_running_out_of_memory_halves_the_part(error: BaseException) -> None:
    function = Limited(3, error)
    result = in_batches(function, torch.ones(10, 1), 8)
    assert result.shape == (10, 1)
    assert function.sizes == [8, 4, 2, 2, 2, 2, 2]


def test_the_smaller_size_is_remembered() -> None:
    batches, function = Batches(8), Limited(4)
    batches(function, torch.ones(8, 1))
    batches(function, torch.ones(8, 1))
    assert function.sizes == [8, 4, 4, 4, 4]
    assert batches.size == 4


def test_a_batch_smaller_than_the_part_is_halved_by_its_own_size() -> None:
    function = Limited(2)
    in_batches(function, torch.ones(4, 1), 64)
    assert function.sizes == [4, 2, 2]


def test_one_image_that_does_not_fit_names_the_remedy() -> None:
    with pytest.raises(OutOfMemory, match=r"shape \(3, 8, 8\).*smaller or fewer"):
        in_batches(Limited(0), torch.ones(4, 3, 8, 8), 4)
    assert issubclass(OutOfMemory, EngineError)


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(Limited(0, RuntimeError("shapes")), torch.ones(4, 1), 4)


def test_results_are_joined_where_told() -> None:
    def members(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x, -x])

    x = torch.rand(5, 3)
    torch.testing.assert_close(in_batches(members, x, 2, dim=1), members(x))


def test_gradients_pass() -> None:
    x = torch.rand(5, 2, requires_grad=True)
    in_batches(Limited(2), x, 4).sum().backward()
    assert x.grad is not None
    assert x.grad.unique().tolist() == [2.0]


def test_an_empty_batch_is_asked_once() -> None:
    function = Limited(4)
    assert in_batches(function, torch.ones(0, 2), 4).shape == (0, 2)


@pytest.mark.parametrize("size", [0, -1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(EngineError, match="at least 1"):
        in_batches(Limited(1), torch.ones(1, 1), size)


def test_a_real_allocation_that_fails_is_recognised() -> None:
    def hungry(x: torch.Tensor) -> torch.Tensor:
        if len(x) > 1:
            torch.empty(2**46, dtype=torch.float64)
        return x

    assert len(in_batches(hungry, torch.ones(3, 1), 3)) == 3
