"""How a classifier is trained: the parameters, and the recipe in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidParameter
from engine.models.augment import Augmentation
from engine.models.losses import LOSSES, RESAMPLES, Loss, Resample


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainParams:
    """How one classifier is trained.

    Attributes
    ----------
    name, family, architecture, arguments
        As in the model card.
    input_size, first_size
        Side in pixels at the end and at the start of training; it grows in
        steps of 16 over the first two thirds of the epochs.
    mean, std
        Per-channel normalisation of images in [0, 1].
    layout, test_share
        How the data are laid out, and which share of the groups is held out for
        the test where they come without a test split; see `Source`.
    epochs, batch, learning_rate, weight_decay, warmup
        Of AdamW with a cosine schedule; `warmup` in epochs.
    last_epoch
        Stop after so many epochs of the schedule; 0 for all of them.
    patience
        Stop after so many epochs without a better one; 0 for never.
    smoothing
        Label smoothing.
    loss, focal_gamma, focal_alpha
        ``cross-entropy``, or ``focal`` with γ and one weight α per class, in
        order of their names (empty: all 1).
    resample
        ``balanced`` draws every class equally often; ``none`` takes every image
        once per epoch.
    ema
        Decay of the moving average of the weights, which is what is kept.
    validation
        Share of the training groups held out to choose the best epoch.
    bf16
        Whether to compute in bfloat16 where torch's autocast allows.
    device
        What to compute on, in torch's words, e.g. ``cuda``.
    seed
        Every random draw derives from it.
    augmentation
        Random changes of the images.
    data, licence, initial_source
        For the model card; the last is where the initial weights came from and
        under which licence.
    """

    name: str
    family: str
    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict)
    input_size: int = 128
    first_size: int = 0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    layout: str = "auto"
    test_share: float = 0.0
    epochs: int = 30
    last_epoch: int = 0
    patience: int = 0
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 2.0
    smoothing: float = 0.1
    loss: Loss = "cross-entropy"
    focal_gamma: float = 2.0
    focal_alpha: tuple[float, ...] = ()
    resample: Resample = "none"
    ema: float = 0.995
    validation: float = 0.1
    bf16: bool = False
    device: str = "cpu"
    seed: int = 2023
    augmentation: Augmentation = field(default_factory=Augmentation)
    data: str = ""
    licence: str = ""
    initial_source: str = ""

    def __post_init__(self) -> None:
        self._check_network()
        self._check_schedule()
        self._check_loss()

    def _check_network(self) -> None:
        if not self.name or "/" in self.name:
            raise InvalidParameter(f"name={self.name!r}: must be a plain file name")
        if self.input_size < 32 or not 0 <= self.first_size <= self.input_size:
            raise InvalidParameter(
                f"input_size={self.input_size}, first_size={self.first_size}: need at "
                "least 32, and a first size not above the last"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise InvalidParameter(
                f"mean={list(self.mean)}, std={list(self.std)}: need three numbers "
                "each, and deviations above 0"
            )

    def _check_schedule(self) -> None:
        if self.patience < 0:
            raise InvalidParameter(f"patience={self.patience}: must not be below 0")
        if not 0 <= self.last_epoch <= self.epochs:
            raise InvalidParameter(
                f"last_epoch={self.last_epoch}: must lie in 0..{self.epochs}"
            )
        if self.epochs < 1 or self.batch < 2:
            raise InvalidParameter(
                f"epochs={self.epochs}, batch={self.batch}: need at least 1 and 2"
            )
        if not 0 < self.validation < 1 or not 0 <= self.ema < 1:
            raise InvalidParameter(
                f"validation={self.validation}, ema={self.ema}: must lie below 1 and "
                "not below 0"
            )

    def _check_loss(self) -> None:
        if self.loss not in LOSSES or self.resample not in RESAMPLES:
            raise InvalidParameter(
                f"loss={self.loss!r}, resample={self.resample!r}: must be one of "
                f"{', '.join(LOSSES)}, and one of {', '.join(RESAMPLES)}"
            )
        if self.focal_gamma < 0 or any(a < 0 for a in self.focal_alpha):
            raise InvalidParameter(
                f"focal_gamma={self.focal_gamma}, focal_alpha={list(self.focal_alpha)}:"
                " must not be below 0"
            )


def _describe_choices(params: TrainParams) -> str:
    """Put what differs from plain cross-entropy on all images in words."""
    p = params
    words = []
    if p.loss == "focal":
        alpha = ", ".join(f"{a:g}" for a in p.focal_alpha) or "1"
        words.append(f"focal loss of gamma {p.focal_gamma:g} and alpha {alpha}")
    if p.resample != "none":
        words.append("classes drawn equally often")
    if p.patience:
        words.append(f"stopped after {p.patience} epochs without a better one")
    if p.test_share:
        words.append(f"{p.test_share:g} of the groups held out for the test")
    return "".join(f"{w}; " for w in words)


def describe(params: TrainParams) -> str:
    """Put the recipe in one line, for the model card."""
    p, a = params, params.augmentation
    grow = f"{p.first_size} to " if p.first_size else ""
    stop = f" (stopped after {p.last_epoch})" if p.last_epoch else ""
    return (
        f"AdamW, cosine from {p.learning_rate:g} after {p.warmup:g} epochs of warm-up, "
        f"weight decay {p.weight_decay:g}, {p.epochs} epochs{stop} of batches of "
        f"{p.batch} at {grow}{p.input_size} px, label smoothing {p.smoothing:g}, mixup "
        f"{a.mixup:g}, weights averaged with decay {p.ema:g}; rotation {a.rotation:g} "
        f"degrees, scale {a.scale:g}, shift {a.shift:g}, flip {a.flip}, contrast "
        f"{a.gain:g}, gamma {a.gamma:g}, noise {a.noise:g}; best epoch on "
        f"{p.validation:g} of the groups held out; {_describe_choices(p)}"
        f"{'bfloat16' if p.bf16 else 'float32'}; seed {p.seed}"
    )
