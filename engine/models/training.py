"""Train one classifier on a folder of labelled images."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.errors import InvalidParameter, ModelError
from engine.models.augment import Augmentation, jitter, mix, warp
from engine.models.card import ModelCard
from engine.models.classifier import Classifier, build_backbone, save_classifier
from engine.models.compat import channels_last
from engine.models.dataset import (
    Images,
    Listing,
    Progress,
    hold_out,
    list_split,
    load_images,
)
from engine.models.evaluate import evaluate_loss
from engine.models.initial import load_initial

CACHE_SCALE = 1.15
"""Images are kept this much larger than the network sees, to be rotated."""


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
    epochs, batch, learning_rate, weight_decay, warmup
        Of AdamW with a cosine schedule; `warmup` in epochs.
    last_epoch
        Stop after so many epochs of the schedule; 0 for all of them.
    smoothing
        Label smoothing.
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
    epochs: int = 30
    last_epoch: int = 0
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: float = 2.0
    smoothing: float = 0.1
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
        if not self.name or "/" in self.name:
            raise InvalidParameter(f"name={self.name!r}: must be a plain file name")
        if self.input_size < 32 or not 0 <= self.first_size <= self.input_size:
            raise InvalidParameter(
                f"input_size={self.input_size}, first_size={self.first_size}: need at "
                "least 32, and a first size not above the last"
            )
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


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """What one epoch came to; `accuracy` is on the held-out images, 0..1."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    best: float
    seconds: float


Report = Callable[[EpochReport], None]


class _Average:
    """Exponential moving average of a network's weights and statistics."""

    def __init__(self, model: Classifier, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, model: Classifier) -> None:
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        mine = self.model.backbone.state_dict()
        for key, value in model.backbone.state_dict().items():
            if value.is_floating_point():
                mine[key].lerp_(value, 1 - decay)
            else:
                mine[key].copy_(value)

    def state(self) -> dict[str, Any]:
        return {"weights": self.model.state_dict(), "updates": self._updates}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["weights"])
        self._updates = int(state["updates"])


class Trainer:
    """Training of one classifier, an epoch at a time.

    Parameters
    ----------
    params
        How to train.
    listing
        Files of the training split.
    initial
        Weights file to start from, or None.
    progress
        Told about images as they are decoded.
    """

    def __init__(
        self,
        params: TrainParams,
        listing: Listing,
        *,
        initial: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.params = params
        torch.manual_seed(params.seed)
        backbone = build_backbone(
            params.architecture, len(listing.labels), params.arguments
        )
        if initial is not None:
            load_initial(backbone, initial)
        side = round(params.input_size * CACHE_SCALE)
        images = load_images(listing.samples, side, progress)
        kept, held = hold_out(listing.samples, params.validation, params.seed)
        self.train_images = images.take(kept)
        self.held_images = images.take(held)
        self.model = Classifier(backbone, self._card(listing, initial))
        channels_last(self.model)
        self.model.to(params.device)
        self._kind = torch.device(params.device).type
        self.average = _Average(self.model, params.ema)
        self.optimizer = _optimizer(self.model, params)
        self.epoch = 0
        self.best = (-1.0, -math.inf)
        self.best_weights: dict[str, torch.Tensor] = {}

    def _card(self, listing: Listing, initial: Path | None) -> ModelCard:
        p = self.params
        return ModelCard(
            name=p.name,
            family=p.family,
            architecture=p.architecture,
            architecture_arguments=p.arguments,
            labels=listing.labels,
            input_size=p.input_size,
            data=p.data,
            licence=p.licence,
            sizes={"train": len(listing.samples)},
            seed=p.seed,
            recipe=describe(p),
            date=datetime.now(UTC).date().isoformat(),
            initial_weights=_initial_note(p, initial),
        )

    def run_epoch(self) -> EpochReport:
        """Train for one epoch and validate the averaged weights."""
        start = time.monotonic()
        p = self.params
        generator = torch.Generator().manual_seed(p.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.train_images), generator=generator)
        starts = range(0, len(order) - 1, p.batch)  # a batch norm needs two images
        batches = [order[i : i + p.batch] for i in starts]
        self.model.train()
        total = 0.0
        for index, batch in enumerate(batches):
            self._set_rate(self.epoch + index / len(batches))
            total += self._step(self.train_images.take(batch), generator)
        self.epoch += 1
        loss, accuracy = evaluate_loss(self.average.model, self.held_images)
        self._remember((accuracy, -loss))
        return EpochReport(
            epoch=self.epoch,
            epochs=p.epochs,
            loss=total / max(1, len(batches)),
            accuracy=accuracy,
            best=self.best[0],
            seconds=time.monotonic() - start,
        )

    def _step(self, images: Images, generator: torch.Generator) -> float:
        p = self.params
        images = images.to(p.device)
        x = images.pixels.float() / 255
        targets = functional.one_hot(images.targets, len(self.model.labels)).float()
        x = warp(x, self._side(), p.augmentation, generator)
        x = jitter(x, p.augmentation, generator)
        x, targets = mix(x, targets, p.augmentation.mixup, generator)
        x = (x.expand(-1, 3, -1, -1) - self.model.mean) / self.model.std
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._kind, torch.bfloat16, enabled=p.bf16):
            logits = self.model.backbone(x)
        loss = functional.cross_entropy(
            logits.float(), targets, label_smoothing=p.smoothing
        )
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.model)
        return float(loss.detach())

    def _side(self) -> int:
        p = self.params
        first = p.first_size or p.input_size
        share = min(1.0, self.epoch / max(1.0, p.epochs * 2 / 3))
        return min(p.input_size, first + int((p.input_size - first) * share) // 16 * 16)

    def _set_rate(self, epoch: float) -> None:
        p = self.params
        if epoch < p.warmup:
            rate = (epoch + 0.01) / p.warmup
        else:
            done = (epoch - p.warmup) / max(1e-9, p.epochs - p.warmup)
            rate = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for group in self.optimizer.param_groups:
            group["lr"] = p.learning_rate * rate

    def _remember(self, score: tuple[float, float]) -> None:
        if score >= self.best:
            self.best = score
            state = self.average.model.backbone.state_dict()
            self.best_weights = {k: v.clone() for k, v in state.items()}

    def best_model(self) -> Classifier:
        """Give the averaged weights of the best epoch, ready to be saved."""
        backbone = copy.deepcopy(self.average.model.backbone)
        backbone.load_state_dict(self.best_weights)
        return Classifier(backbone.cpu(), self.model.card).eval()

    def save(self, path: Path) -> None:
        """Write everything needed to go on later."""
        state = {
            "recipe": describe(self.params),
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "average": self.average.state(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_weights": self.best_weights,
        }
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises
        ------
        ModelError
            If it was written by a training with other parameters.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["recipe"] != describe(self.params):
            raise ModelError(
                f"{path}: written by a training with other parameters "
                f"({state['recipe']}); delete it, or train with those"
            )
        self.model.load_state_dict(state["model"])
        self.average.restore(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best = int(state["epoch"]), tuple(state["best"])
        self.best_weights = state["best_weights"]


def _initial_note(params: TrainParams, initial: Path | None) -> str:
    if initial is None:
        return ""
    source = params.initial_source or "source not stated"
    return f"{initial.name}: {source}"


def _optimizer(model: nn.Module, params: TrainParams) -> torch.optim.AdamW:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim > 1],
            "weight_decay": params.weight_decay,
        },
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=params.learning_rate)


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
        f"{p.validation:g} of the groups held out; "
        f"{'bfloat16' if p.bf16 else 'float32'}; seed {p.seed}"
    )


def train_classifier(
    data: Path,
    params: TrainParams,
    out: Path,
    *,
    initial: Path | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> ModelCard:
    """Train a classifier on ``data/train`` (or ``data``) and write it to `out`.

    An interrupted training goes on from ``out/NAME.checkpoint``, which is removed
    at the end.

    Returns
    -------
    ModelCard
        Without an accuracy; `engine.models.evaluate.evaluate_card` measures it.

    Raises
    ------
    DatasetError
        If the images cannot be used.
    ModelError
        If the architecture, the initial weights or the checkpoint do not fit.
    """
    trainer = Trainer(
        params, list_split(data, "train"), initial=initial, progress=progress
    )
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{params.name}.checkpoint"
    if checkpoint.is_file():
        trainer.resume(checkpoint)
    while trainer.epoch < (params.last_epoch or params.epochs):
        result = trainer.run_epoch()
        trainer.save(checkpoint)
        if report is not None:
            report(result)
    card = save_classifier(trainer.best_model(), out)
    checkpoint.unlink(missing_ok=True)
    return card
