"""The ensemble: Eq. 12, leave one out, and refusal of what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import ModelError
from engine.models.classifier import save_classifier
from engine.models.ensemble import Ensemble, load_ensemble
from tests.engine.models_small import LABELS, small_classifier


def small_ensemble(weights: list[float] | None = None) -> Ensemble:
    members = [small_classifier(kind) for kind in ("residual", "mobile", "vit")]
    return Ensemble("small", members, weights).eval()


@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 1.0]])
def test_probabilities_follow_equation_12(weights: list[float] | None) -> None:
    ensemble = small_ensemble(weights)
    x = torch.rand(4, 3, 70, 70)
    beta = [1 / 3] * 3 if weights is None else [0.5, 0.25, 0.25]
    expected = sum(
        b * member(x).softmax(1)
        for b, member in zip(beta, ensemble.members, strict=True)
    )
    torch.testing.assert_close(ensemble.probabilities(x), expected)
    torch.testing.assert_close(ensemble(x), expected)
    torch.testing.assert_close(ensemble.probabilities(x).sum(1), torch.ones(4))


def test_members_answer_in_order() -> None:
    ensemble = small_ensemble()
    x = torch.rand(2, 3, 64, 64)
    logits = ensemble.member_logits(x)
    assert logits.shape == (3, 2, len(LABELS))
    for row, member in zip(logits, ensemble.members, strict=True):
        torch.testing.assert_close(row, member(x))
    torch.testing.assert_close(ensemble.member_probabilities(x), logits.softmax(-1))
    assert [f.shape[0] for f in ensemble.features(x)] == [2, 2, 2]


def test_leaving_one_out_renormalises_the_weights() -> None:
    rest = small_ensemble([0.5, 0.3, 0.2]).without("residual")
    assert rest.names == ("mobile", "vit")
    torch.testing.assert_close(rest.weights, torch.tensor([0.6, 0.4]))
    assert rest.labels == LABELS


def test_leaving_out_a_stranger_or_the_last_is_refused() -> None:
    ensemble = small_ensemble()
    with pytest.raises(ModelError, match="no member 'densenet'"):
        ensemble.without("densenet")
    with pytest.raises(ModelError, match="no member beside 'vit'"):
        ensemble.without("residual").without("mobile").without("vit")


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [float("nan"), 1.0, 1.0]]
)
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ModelError, match="need 3 numbers"):
        small_ensemble(weights)


def test_members_of_different_tasks_are_refused() -> None:
    with pytest.raises(ModelError, match="must be trained on the same classes"):
        Ensemble(
            "mixed",
            [small_classifier(), small_classifier("vit", labels=("x", "y", "z"))],
        )


def test_two_members_of_one_name_are_refused() -> None:
    with pytest.raises(ModelError, match="not unique"):
        Ensemble("twice", [small_classifier(), small_classifier()])


def test_no_members_are_refused() -> None:
    with pytest.raises(ModelError, match="no members"):
        Ensemble("empty", [])


def test_a_directory_of_cards_is_an_ensemble(tmp_path: Path) -> None:
    for kind in ("vit", "residual"):
        save_classifier(small_classifier(kind), tmp_path)
    ensemble = load_ensemble(tmp_path)
    assert ensemble.name == tmp_path.name
    assert ensemble.names == ("residual", "vit")
    assert not ensemble.training
    assert not any(p.requires_grad for p in ensemble.parameters())


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_cards_is_refused(exists: bool, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model cards"):
        load_ensemble(tmp_path if exists else tmp_path / "gone")
