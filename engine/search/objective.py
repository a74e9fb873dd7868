"""What a search minimises: diagnosis confidence, or nearness of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import cosine_similarity

from engine.search.evolve import Judgement

if TYPE_CHECKING:
    from engine.models.ensemble import Ensemble


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What an ensemble says of one image.

    Attributes
    ----------
    label
        Index of the class of largest ensemble probability: the consensus
        label, not a diagnosis.
    probabilities
        ``(C,)`` of the ensemble (Eq. 12).
    members
        ``(k, C)``, one row per member.
    """

    label: int
    probabilities: tuple[float, ...]
    members: tuple[tuple[float, ...], ...]


@torch.inference_mode()
def opinion(ensemble: Ensemble, image: torch.Tensor) -> Opinion:
    """Ask every member about one image ``(3, G, G)`` in [0, 1]."""
    members = ensemble.member_logits(image[None])[:, 0].double().softmax(dim=-1)
    mixed = _beta(ensemble, members) @ members
    return Opinion(
        label=int(mixed.argmax()),
        probabilities=tuple(mixed.tolist()),
        members=tuple(tuple(row) for row in members.tolist()),
    )


def _beta(ensemble: Ensemble, like: torch.Tensor) -> torch.Tensor:
    return ensemble.weights.to(like)


class Objective(Protocol):
    """Judges candidate images; lower fitness is better."""

    @property
    def first_success(self) -> bool:
        """Whether the first success ends the search, or a whole generation."""
        ...

    def judge(self, pictures: torch.Tensor) -> list[Judgement]:
        """One judgement per picture of ``(N, 3, G, G)`` in [0, 1]."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosisObjective:
    """Confidence f_t in the consensus label; success when the label changes.

    Confidences that saturate are told apart by the log-odds of the label
    against the strongest other class.
    """

    ensemble: Ensemble
    label: int

    @property
    def first_success(self) -> bool:
        """The paper's rule: stop at the first misclassified candidate."""
        return True

    @torch.inference_mode()
    def judge(self, pictures: torch.Tensor) -> list[Judgement]:
        """One judgement per picture of ``(N, 3, G, G)`` in [0, 1]."""
        logits = self.ensemble.member_logits(pictures).double()
        weights = _beta(self.ensemble, logits).log()[:, None, None]
        mixed = (logits.log_softmax(dim=-1) + weights).logsumexp(dim=0)
        others = mixed.clone()
        others[:, self.label] = -torch.inf
        margins = mixed[:, self.label] - others.amax(dim=1)
        rows = zip(mixed[:, self.label].exp().tolist(), margins.tolist(), strict=True)
        return [Judgement(fitness=f, tie=m, success=m < 0) for f, m in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFreeObjective:
    """Movement of the members' features where no diagnosis is configured.

    Fitness is minus the mean over members of 1 - cos between features of the
    candidate and of the original. A whole generation is judged and its best
    candidates are put forward; whether one moves the ensemble's own prediction
    is decided on the native result.
    """

    ensemble: Ensemble
    features: tuple[torch.Tensor, ...]

    @property
    def first_success(self) -> bool:
        """Candidates are compared, a generation at a time."""
        return False

    @torch.inference_mode()
    def judge(self, pictures: torch.Tensor) -> list[Judgement]:
        """One judgement per picture of ``(N, 3, G, G)`` in [0, 1]."""
        moved = torch.stack(
            [
                1 - cosine_similarity(candidate, original, dim=1)
                for candidate, original in zip(
                    self.ensemble.features(pictures), self.features, strict=True
                )
            ]
        ).mean(dim=0)
        return [Judgement(fitness=-d, tie=0.0, success=True) for d in moved.tolist()]


@torch.inference_mode()
def label_free(ensemble: Ensemble, image: torch.Tensor) -> LabelFreeObjective:
    """Objective relative to an original image ``(3, G, G)`` in [0, 1]."""
    return LabelFreeObjective(
        ensemble=ensemble, features=tuple(ensemble.features(image[None]))
    )
