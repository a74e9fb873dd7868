"""Train one classifier on labelled images."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from engine.errors import InvalidParameter
from engine.models.augment import jitter, mix, warp
from engine.models.average import Average
from engine.models.card import ModelCard
from engine.models.checkpoint import read_checkpoint, write_checkpoint
from engine.models.classifier import Classifier, build_backbone, save_classifier
from engine.models.compat import channels_last, usable_device
from engine.models.dataset import Images, Progress, hold_out, load_images
from engine.models.evaluate import evaluate_loss
from engine.models.initial import load_initial
from engine.models.losses import epoch_order, focal_loss, smooth
from engine.models.recipe import TrainParams, describe
from engine.models.samples import Listing
from engine.models.source import Source

CACHE_SCALE = 1.15
"""Images are kept this much larger than the network sees, to be rotated."""


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
        device = usable_device(params.device)
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
        self.model.to(device)
        self._kind = device.type
        self._alpha = _class_weights(params, len(listing.labels))
        self.average = Average(self.model, params.ema)
        self.optimizer = _optimizer(self.model, params)
        self.epoch = 0
        self.best_epoch = 0
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
            mean=p.mean,
            std=p.std,
            data=p.data,
            licence=p.licence,
            sizes={"train": len(listing.samples)},
            seed=p.seed,
            recipe=describe(p),
            date=datetime.now(UTC).date().isoformat(),
            initial_weights=_initial_note(p, initial),
        )

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or none was better for too long."""
        p = self.params
        stale = self.epoch - self.best_epoch
        return self.epoch >= (p.last_epoch or p.epochs) or 0 < p.patience <= stale

    def run_epoch(self) -> EpochReport:
        """Train for one epoch and validate the averaged weights."""
        start = time.monotonic()
        p = self.params
        generator = torch.Generator().manual_seed(p.seed * 100_003 + self.epoch)
        order = epoch_order(self.train_images.targets, p.resample, generator)
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
        loss = self._loss(logits.float(), targets)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.model)
        return float(loss.detach())

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        p = self.params
        if p.loss == "focal":
            targets = smooth(targets, p.smoothing)
            return focal_loss(logits, targets, p.focal_gamma, self._alpha)
        return functional.cross_entropy(logits, targets, label_smoothing=p.smoothing)

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
            self.best, self.best_epoch = score, self.epoch
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
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "average": self.average.state(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        write_checkpoint(path, describe(self.params), state)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises
        ------
        ModelError
            If it was written by a training with other parameters.
        """
        state = read_checkpoint(path, describe(self.params))
        self.model.load_state_dict(state["model"])
        self.average.restore(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.best = int(state["epoch"]), tuple(state["best"])
        self.best_epoch = int(state["best_epoch"])
        self.best_weights = state["best_weights"]


def _class_weights(params: TrainParams, classes: int) -> torch.Tensor | None:
    alpha = params.focal_alpha
    if not alpha:
        return None
    if len(alpha) != classes:
        raise InvalidParameter(
            f"focal_alpha={list(alpha)}: {len(alpha)} numbers for {classes} classes"
        )
    return torch.tensor(alpha)


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


def train_classifier(
    data: Path,
    params: TrainParams,
    out: Path,
    *,
    initial: Path | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> ModelCard:
    """Train a classifier on the training split of `data` and write it to `out`.

    `data` is anything a `Source` reads, under the layout, test share and seed of
    `params`. An interrupted training goes on from ``out/NAME.checkpoint``, which is
    removed at the end.

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
    listing = source_of(data, params).split("train")
    trainer = Trainer(params, listing, initial=initial, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{params.name}.checkpoint"
    if checkpoint.is_file():
        trainer.resume(checkpoint)
    while not trainer.finished:
        result = trainer.run_epoch()
        trainer.save(checkpoint)
        if report is not None:
            report(result)
    card = save_classifier(trainer.best_model(), out)
    checkpoint.unlink(missing_ok=True)
    return card


def source_of(data: Path, params: TrainParams) -> Source:
    """Divide `data` as a training with `params` does, e.g. to measure it after."""
    return Source(
        path=data,
        layout=params.layout,
        test_share=params.test_share,
        seed=params.seed,
    )
