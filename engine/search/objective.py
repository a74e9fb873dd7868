"""What a search minimises: the confidence of the ensemble in its own answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cosine_similarity

from engine.precision import reduced_precision
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """Judges candidate images of one original.

    Attributes
    ----------
    ensemble
        The judges.
    label
        Class to talk it out of: its own answer on the original.
    features
        Features of the original, ``(1, D_i)`` per member.
    first_success
        Whether the first success ends the search, as in the paper. Otherwise a
        whole generation is judged and of its successes the one is taken that
        moves the features the most (label-free: for images no ensemble was
        trained on a class name says nothing, so both movements count).
    """

    ensemble: Ensemble
    label: int
    features: tuple[torch.Tensor, ...]
    first_success: bool

    @torch.inference_mode()
    def judge(self, pictures: torch.Tensor) -> list[Judgement]:
        """Judge each picture of ``(N, 3, G, G)`` in [0, 1]; lower is better.

        Fitness is f_t, the softmax confidence in the label (Eq. 12).
        Confidences that saturate are told apart by the log-odds of the label
        against the strongest other class. Success: that class is stronger, to
        be confirmed in full precision.
        """
        with reduced_precision(pictures.device):
            logits = self.ensemble.member_logits(pictures).double()
        weights = _beta(self.ensemble, logits).log()[:, None, None]
        mixed = (logits.log_softmax(dim=-1) + weights).logsumexp(dim=0)
        others = mixed.clone()
        others[:, self.label] = -torch.inf
        margins = mixed[:, self.label] - others.amax(dim=1)
        rows = zip(mixed[:, self.label].exp().tolist(), margins.tolist(), strict=True)
        return [Judgement(fitness=f, tie=m, success=m < 0) for f, m in rows]

    @torch.inference_mode()
    def displacement(self, pictures: torch.Tensor) -> list[float]:
        """Mean over members of 1 - cos to the original's features, 0..2 each."""
        seen = zip(self.ensemble.features(pictures), self.features, strict=True)
        distances = [1 - cosine_similarity(a, b, dim=1) for a, b in seen]
        measured: list[float] = torch.stack(distances).mean(dim=0).tolist()
        return measured


@torch.inference_mode()
def objective_for(
    ensemble: Ensemble, image: torch.Tensor, label: int, *, first_success: bool
) -> Objective:
    """Make the objective of an original image ``(3, G, G)`` in [0, 1]."""
    return Objective(
        ensemble=ensemble,
        label=label,
        features=tuple(ensemble.features(image[None])),
        first_success=first_success,
    )
