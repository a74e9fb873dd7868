"""The ensemble: Eq. 12, leave one out, and refusal of what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.errors import ModelError
from engine.models.classifier import save_classifier
from engine.models.ensemble import Combine, Ensemble, combine, load_ensemble
from tests.engine.models_small import LABELS, small_classifier

HOW: tuple[Combine, ...] = ("probability", "logit", "geometric")
BETA = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def small_ensemble(
    weights: list[float] | None = None, how: Combine = "probability"
) -> Ensemble:
    members = [small_classifier(kind) for kind in ("residual", "mobile", "vit")]
    return Ensemble("small", members, weights, combine=how).eval()


def logits(scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    return z * scale


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


def test_each_reading_of_equation_12_is_what_its_name_says() -> None:
    z = logits()
    beta = BETA.view(3, 1, 1)
    product = (z.softmax(-1) ** beta).prod(0)
    expected = {
        "probability": (beta * z.softmax(-1)).sum(0),
        "logit": (beta * z).sum(0).softmax(-1),
        "geometric": product / product.sum(-1, keepdim=True),
    }
    for how in HOW:
        torch.testing.assert_close(combine(z, BETA, how).exp(), expected[how])


def test_mean_of_logits_is_the_geometric_mean_and_not_the_arithmetic_one() -> None:
    z = logits()
    probability, logit, geometric = (combine(z, BETA, how) for how in HOW)
    torch.testing.assert_close(logit, geometric)
    assert (logit - probability).abs().max() > 0.1


@pytest.mark.parametrize("how", HOW)
def test_one_member_alone_is_its_softmax(how: Combine) -> None:
    z = logits()
    only_second = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(combine(z, only_second, how), z[1].log_softmax(-1))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_combination_can_be_differentiated(how: Combine, scale: float) -> None:
    z = logits(scale).requires_grad_()
    (gradient,) = torch.autograd.grad(combine(z, BETA, how)[:, 0].sum(), z)
    assert gradient.isfinite().all()
    if scale == 1.0:
        assert torch.autograd.gradcheck(lambda v: combine(v, BETA, how), (z,))
    # Confident members keep a gradient: the least likely class has one.
    assert gradient.abs().sum() > 0.1


def test_half_precision_logits_are_combined_in_single() -> None:
    z = logits().bfloat16()
    together = combine(z, BETA)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, combine(z.float(), BETA.float()))


def test_unknown_combination_is_refused() -> None:
    for make in (lambda how: combine(logits(), BETA, how), small_ensemble):
        with pytest.raises(ModelError, match="must be one of probability"):
            make(how="majority")


@pytest.mark.parametrize("how", HOW)
def test_ensemble_combines_as_told(how: Combine) -> None:
    ensemble = small_ensemble([0.5, 0.3, 0.2], how)
    x = torch.rand(2, 3, 64, 64)
    expected = combine(ensemble.member_logits(x), BETA.float(), how)
    torch.testing.assert_close(ensemble.log_probabilities(x), expected)
    torch.testing.assert_close(ensemble.probabilities(x), expected.exp())
    assert ensemble.without("vit").combine == how


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


def test_a_directory_is_combined_as_told(tmp_path: Path) -> None:
    for kind in ("vit", "residual"):
        save_classifier(small_classifier(kind), tmp_path)
    ensemble = load_ensemble(tmp_path, weights=[3.0, 1.0], combine="logit")
    assert ensemble.combine == "logit"
    assert ensemble.weights.tolist() == [0.75, 0.25]


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_without_cards_is_refused(exists: bool, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model cards"):
        load_ensemble(tmp_path if exists else tmp_path / "gone")
