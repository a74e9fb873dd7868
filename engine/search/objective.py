"""What a search minimises, and when it is content."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from engine.errors import InvalidParameter
from engine.models.ensemble import combine
from engine.search.candidate import Judgement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.models.ensemble import Ensemble
    from engine.params import StopRule


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
def opinions(ensemble: Ensemble, images: torch.Tensor) -> list[Opinion]:
    """Ask every member about images ``(N, 3, G, G)`` in [0, 1]."""
    return spoken(ensemble, ensemble.member_logits(images).double().cpu())


def spoken(ensemble: Ensemble, logits: torch.Tensor) -> list[Opinion]:
    """Put logits ``(k, N, C)`` float64 on the CPU into one opinion per image."""
    mixed = mixed_log_probabilities(ensemble, logits).exp()
    members = logits.softmax(dim=-1)
    return [
        Opinion(
            label=int(mixed[n].argmax()),
            probabilities=tuple(mixed[n].tolist()),
            members=tuple(tuple(row) for row in members[:, n].tolist()),
        )
        for n in range(len(mixed))
    ]


def mixed_log_probabilities(ensemble: Ensemble, logits: torch.Tensor) -> torch.Tensor:
    """Logarithm of Eq. 12, ``(N, C)``, of the members' logits ``(k, N, C)``."""
    return combine(logits, ensemble.weights.to(logits), ensemble.combine)


def leads(scores: torch.Tensor, label: int) -> torch.Tensor:
    """By how much a class leads the strongest other one, ``(...)`` of ``(..., C)``."""
    others = scores.clone()
    others[..., label] = -torch.inf
    return scores[..., label] - others.amax(dim=-1)


def averaged(opinions_: Sequence[Opinion]) -> Opinion:
    """One opinion of a picture seen under several windows: the mean.

    Its label is the class of largest mean probability.
    """
    if len(opinions_) == 1:
        return opinions_[0]
    probabilities = np.mean([one.probabilities for one in opinions_], axis=0)
    members = np.mean([one.members for one in opinions_], axis=0)
    return Opinion(
        label=int(probabilities.argmax()),
        probabilities=tuple(probabilities.tolist()),
        members=tuple(tuple(row) for row in members.tolist()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What is wanted of candidate images of one original.

    Where the frame is seen under W windows, what counts is the mean over them:
    of the ensemble's probabilities and of each member's margin.

    Attributes
    ----------
    ensemble
        The judges.
    label
        Class to talk them out of: the ensemble's own answer on the original.
    features
        Features of the original, ``(W, D_i)`` per member.
    stop
        When a candidate is good enough.
    label_free
        For images no ensemble was trained on, where a class name says nothing:
        whole generations are judged (all of them under ``never``), and of the
        candidates that change the prediction the one is taken that moves the
        features the most.
    """

    ensemble: Ensemble
    label: int
    features: tuple[torch.Tensor, ...]
    stop: StopRule
    label_free: bool = False

    def __post_init__(self) -> None:
        members = len(self.ensemble.members)
        if self.stop.kind == "vote" and self.stop.votes > members:
            raise InvalidParameter(
                f"stop rule vote:{self.stop.votes}: ensemble "
                f"{self.ensemble.name!r} has only {members} members"
            )

    @property
    def windows(self) -> int:
        """W, the number of windows every candidate is seen under."""
        return len(self.features[0]) if self.features else 1

    @property
    def first_success(self) -> bool:
        """Whether the first success ends the search, as in the paper."""
        return not self.label_free and self.stop.kind != "never"

    def judge(self, logits: torch.Tensor) -> list[Judgement]:
        """Judge candidates by what the members said; lower is better.

        Under the paper's stop rule the fitness is f_t, the softmax confidence in
        the label (Eq. 12); saturated confidences are told apart by the log-odds.
        Under the others it is the weighted mean of the members' margins, so that
        every member counts, those already deceived as well.

        Parameters
        ----------
        logits
            ``(k, W * N, C)`` float64 on the CPU, of the members, window by window.
        """
        mixed = self._mean(mixed_log_probabilities(self.ensemble, logits))
        odds = leads(mixed, self.label)
        margins = leads(logits, self.label)
        if self.windows > 1:
            margins = margins.reshape(len(margins), self.windows, -1).mean(dim=1)
        fitness = mixed[:, self.label].exp()
        if self.stop.kind != "ensemble":
            fitness = self.ensemble.weights.to(margins) @ margins
        wrong, enough = (margins < 0).sum(dim=0), self._content(margins, odds)
        return [
            Judgement(fitness=f, tie=t, wrong=w, deceived=t < 0, success=s)
            for f, t, w, s in zip(
                fitness.tolist(),
                odds.tolist(),
                wrong.tolist(),
                enough.tolist(),
                strict=True,
            )
        ]

    def _mean(self, mixed: torch.Tensor) -> torch.Tensor:
        """Logarithm of the mean probabilities over windows, ``(N, C)``."""
        if self.windows == 1:
            return mixed
        windows = mixed.reshape(self.windows, -1, mixed.shape[-1])
        return windows.logsumexp(dim=0) - math.log(self.windows)

    def _content(self, margins: torch.Tensor, odds: torch.Tensor) -> torch.Tensor:
        """Whether each candidate meets the stop rule, ``(N,)`` bool."""
        wrong = margins < 0
        match self.stop.kind:
            case "vote":
                return wrong.sum(dim=0) >= self.stop.votes
            case "all":
                return wrong.all(dim=0)
            case "margin":
                return (margins <= -self.stop.margin).all(dim=0) & wrong.all(dim=0)
            case _:
                return odds < 0

    @torch.inference_mode()
    def displacement(self, pictures: torch.Tensor) -> list[float]:
        """Mean over members and windows of 1 - cos to the original's features.

        Parameters
        ----------
        pictures
            ``(W * N, 3, G, G)``, window by window.

        Returns
        -------
        list of float
            N numbers 0..2.
        """
        seen = zip(self.ensemble.features(pictures), self.features, strict=True)
        distances = [
            1 - cosine_similarity(a.reshape(len(b), -1, a.shape[1]), b[:, None], dim=2)
            for a, b in seen
        ]
        measured: list[float] = torch.stack(distances).mean(dim=(0, 1)).tolist()
        return measured


def surrogate(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Differentiable loss of candidates whose gradient guides a search.

    The weighted mean over members of softplus of the label's lead over the
    strongest other class: members that are already deceived pull less, so the
    gradient points to what still holds.

    Parameters
    ----------
    logits
        ``(k, N, C)`` of the members.
    labels
        ``(N,)`` int64, the class to be talked out of each picture.
    weights
        ``(k,)``, β of Eq. 12.

    Returns
    -------
    torch.Tensor
        ``(N,)``.
    """
    index = labels[None, :, None].expand(logits.shape[0], -1, 1)
    own = logits.gather(2, index)
    other = logits.scatter(2, index, -torch.inf).amax(dim=2)
    lead = own[..., 0] - other
    return torch.einsum("k,kn->n", weights, torch.nn.functional.softplus(lead + 1.0))


@torch.inference_mode()
def objective_for(
    ensemble: Ensemble,
    image: torch.Tensor,
    label: int,
    stop: StopRule,
    *,
    label_free: bool = False,
) -> Objective:
    """Make the objective of an original image.

    Parameters
    ----------
    ensemble, label, stop, label_free
        As in `Objective`.
    image
        ``(3, G, G)`` in [0, 1], or ``(W, 3, G, G)`` under W windows.
    """
    return Objective(
        ensemble=ensemble,
        label=label,
        features=ensemble.features(image.reshape(-1, *image.shape[-3:])),
        stop=stop,
        label_free=label_free,
    )
