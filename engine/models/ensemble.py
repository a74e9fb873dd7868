"""The diagnosis ensemble: what its members say together (Eq. 12)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Literal, cast, get_args

import torch
from torch import nn
from typing_extensions import override

from engine.errors import ModelError
from engine.models.classifier import Classifier, load_classifier, resize

Combine = Literal["probability", "logit", "geometric"]
"""How members are combined; see `combine`."""


def combine(
    member_logits: torch.Tensor, weights: torch.Tensor, how: Combine = "probability"
) -> torch.Tensor:
    """Eq. 12: one distribution from the logits of several members.

    Parameters
    ----------
    member_logits
        ``(k, N, C)``, any floating type; computed in float32 at least.
    weights
        β, ``(k,)``, not negative, sum 1.
    how
        ``probability``: f_ens = Σ β_i softmax(z_i), the paper's "ensemble
        confidence". ``logit``: softmax(Σ β_i z_i). ``geometric``: Π softmax(z_i)^β_i,
        renormalised. The last two are the same distribution, since the
        normalisers of the members do not depend on the class; both names are
        kept because the literature uses both.

    Returns
    -------
    torch.Tensor
        Natural logarithms of the probabilities, ``(N, C)``, differentiable.

    Raises
    ------
    ModelError
        If `how` is unknown.
    """
    _check_combine(how)
    z = member_logits if member_logits.itemsize >= 4 else member_logits.float()
    beta = weights.to(z.dtype).view(-1, 1, 1)
    if how == "logit":
        return (beta * z).sum(0).log_softmax(-1)
    log_p = z.log_softmax(-1)
    if how == "geometric":
        return (beta * log_p).sum(0).log_softmax(-1)
    # In logarithms, so that a confident ensemble keeps a gradient.
    return torch.logsumexp(log_p + beta.log(), dim=0)


class Ensemble(nn.Module):
    """Classifiers of one task, judged together.

    Parameters
    ----------
    name
        Of the ensemble, e.g. ``brain-mri``.
    members
        At least one; unique names, the same labels in the same order.
    weights
        β of Eq. 12, one per member, not negative, normalised to sum 1; None for
        equal weights.
    combine
        How Eq. 12 combines the members, see the function `combine`.

    Raises
    ------
    ModelError
        If the members do not fit together or the weights do not fit them.
    """

    def __init__(
        self,
        name: str,
        members: Iterable[Classifier],
        weights: Sequence[float] | None = None,
        *,
        combine: Combine = "probability",
    ) -> None:
        super().__init__()
        _check_combine(combine)
        self.name = name
        self.combine: Combine = combine
        self._members = nn.ModuleList(members)
        _check_members(name, self.members)
        self.labels: tuple[str, ...] = self.members[0].labels
        beta = _normalise(name, weights, len(self.members))
        self.weights: torch.Tensor
        self.register_buffer("weights", beta, persistent=False)

    @property
    def members(self) -> tuple[Classifier, ...]:
        """The classifiers, in order."""
        return tuple(cast("Classifier", m) for m in self._members)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members, in order."""
        return tuple(m.name for m in self.members)

    def member_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of every member.

        Parameters
        ----------
        x
            ``(N, 3, H, W)`` float in [0, 1], any height and width.

        Returns
        -------
        torch.Tensor
            ``(k, N, C)``.
        """
        # Members that see the same size share one resampling of the images.
        seen: dict[int, torch.Tensor] = {}
        return torch.stack([m(_at_size_of(m, x, seen)) for m in self.members])

    def member_probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """Softmax of every member, ``(k, N, C)``, of ``(N, 3, H, W)``."""
        return self.member_logits(x).softmax(dim=-1)

    def log_probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """Logarithm of `probabilities`, exact also where those round to 0 or 1."""
        return combine(self.member_logits(x), self.weights, self.combine)

    def probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """Eq. 12, by default the β-weighted mean of the members' softmax.

        Parameters
        ----------
        x
            ``(N, 3, H, W)`` float in [0, 1], any height and width.

        Returns
        -------
        torch.Tensor
            ``(N, C)``, 0..1, rows sum to 1.
        """
        return self.log_probabilities(x).exp().clamp(max=1)

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call `probabilities`."""
        return self.probabilities(x)

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of each member before its last layer, ``(N, D_i)`` each."""
        return tuple(member.features(x) for member in self.members)

    def without(self, name: str) -> Ensemble:
        """Leave one member out, for black-box measures.

        Raises
        ------
        ModelError
            If there is no such member, or it is the only one.
        """
        if name not in self.names:
            raise ModelError(
                f"ensemble {self.name!r} has no member {name!r}; it has "
                f"{', '.join(self.names)}"
            )
        kept = [i for i, n in enumerate(self.names) if n != name]
        if not kept:
            raise ModelError(f"ensemble {self.name!r} has no member beside {name!r}")
        return Ensemble(
            f"{self.name} without {name}",
            [self.members[i] for i in kept],
            [float(self.weights[i]) for i in kept],
            combine=self.combine,
        ).to(self.weights.device)


def _at_size_of(
    member: nn.Module, x: torch.Tensor, seen: dict[int, torch.Tensor]
) -> torch.Tensor:
    if not isinstance(member, Classifier):
        return x
    side = member.input_size
    if side not in seen:
        seen[side] = resize(x, side)
    return seen[side]


def _check_combine(how: str) -> None:
    known = get_args(Combine)
    if how not in known:
        raise ModelError(f"combine={how!r}: must be one of {', '.join(known)}")


def _check_members(name: str, members: tuple[Classifier, ...]) -> None:
    if not members:
        raise ModelError(f"ensemble {name!r} has no members")
    names = [m.name for m in members]
    if len(set(names)) != len(names):
        raise ModelError(f"ensemble {name!r}: member names {names} are not unique")
    for member in members[1:]:
        if member.labels != members[0].labels:
            raise ModelError(
                f"ensemble {name!r}: {member.name} has labels {member.labels} but "
                f"{members[0].name} has {members[0].labels}; members must be trained "
                "on the same classes"
            )


def _normalise(name: str, weights: Sequence[float] | None, k: int) -> torch.Tensor:
    if weights is None:
        return torch.full((k,), 1 / k)
    beta = torch.tensor(list(weights), dtype=torch.float32)
    usable = len(beta) == k and bool((beta >= 0).all()) and float(beta.sum()) > 0
    if not usable or not bool(beta.isfinite().all()):
        raise ModelError(
            f"ensemble {name!r}: weights {list(weights)}; need {k} numbers, none "
            "negative, not all zero"
        )
    return beta / beta.sum()


def load_ensemble(
    directory: Path,
    device: str | torch.device = "cpu",
    *,
    weights: Sequence[float] | None = None,
    combine: Combine = "probability",
) -> Ensemble:
    """Load every classifier whose card lies in `directory`, in order of name.

    Parameters
    ----------
    directory
        With one card and one weights file per member.
    device
        Where to put the members.
    weights, combine
        β and kind of Eq. 12, as in `Ensemble`; β in order of name.

    Returns
    -------
    Ensemble
        Named after the directory, in evaluation mode.

    Raises
    ------
    ModelError
        If there is no card, or a model does not load or does not fit the others.
    """
    cards = sorted(directory.glob("*.json")) if directory.is_dir() else []
    if not cards:
        raise ModelError(
            f"{directory}: no model cards (*.json) in it; train a classifier with "
            "`miad-gateway models train` or name another directory"
        )
    members = [load_classifier(card, device) for card in cards]
    ensemble = Ensemble(directory.name, members, weights, combine=combine)
    return ensemble.to(device).eval()


def packaged_ensembles() -> dict[str, Path]:
    """List the ensembles the package ships: name to directory."""
    root = Path(str(resources.files("engine.models"))) / "weights"
    if not root.is_dir():
        return {}
    return {p.name: p for p in sorted(root.iterdir()) if any(p.glob("*.json"))}
