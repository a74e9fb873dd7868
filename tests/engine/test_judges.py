"""Members asked in batches: memory that runs short, answers that are no numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.errors import ModelError
from engine.models.batches import OutOfMemory
from engine.models.ensemble import Ensemble
from engine.search.judges import Judges


class _Linear(nn.Module):
    """Says the mean of each colour; refuses batches larger than its memory."""

    family = "linear"
    cam_reshape = None
    labels = ("a", "b", "c")

    def __init__(self, name: str, memory: int = 1000) -> None:
        super().__init__()
        self.name = name
        self.memory = memory
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.seen.append(len(x))
        return 4 * x.mean(dim=(2, 3))


def _pictures(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost() -> None:
    small = _Linear("small", memory=3)
    pictures = _pictures(11)
    judges = Judges(Ensemble("e", [small]).eval(), precise=True)
    whole = Judges(Ensemble("e", [_Linear("large")]).eval(), precise=True)
    assert torch.equal(judges.look(pictures), whole.look(pictures))
    assert max(small.seen) <= 3
    assert sum(small.seen) == 11
    # The size that fits is kept: no further attempt fails.
    small.seen.clear()
    judges.look(pictures)
    assert max(small.seen) <= 3


def test_gradients_survive_the_same() -> None:
    pictures, labels = _pictures(7), [0, 1, 2, 0, 1, 2, 0]
    small = Judges(Ensemble("e", [_Linear("small", memory=2)]).eval(), precise=True)
    large = Judges(Ensemble("e", [_Linear("large")]).eval(), precise=True)
    logits, gradient = small.look_back(pictures, labels)
    expected, slope = large.look_back(pictures, labels)
    assert torch.equal(logits, expected)
    torch.testing.assert_close(gradient, slope)
    # Each picture has its own gradient: the label's colour is pulled down.
    for one, label in zip(gradient, labels, strict=True):
        assert one[label].min() > 0
        assert one.sum().abs() < 1e-5
    assert not pictures.requires_grad


def test_no_memory_for_a_single_picture_is_said() -> None:
    judges = Judges(Ensemble("e", [_Linear("small", memory=0)]).eval())
    with pytest.raises(OutOfMemory, match="one image"):
        judges.look(_pictures(4))


class _Broken(_Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * torch.tensor([1.0, float("nan"), 1.0])


def test_a_member_that_answers_nan_is_named() -> None:
    members = [_Linear("sound"), _Broken("broken")]
    judges = Judges(Ensemble("e", members).eval())
    with pytest.raises(ModelError, match="member broken of ensemble 'e'"):
        judges.look(_pictures(2))
    with pytest.raises(ModelError, match="broken"):
        judges.look_back(_pictures(2), [0, 1])
