"""Train a remover on random composites; fine-tune it after Eq. 2."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from engine.errors import InvalidParameter, ModelError
from engine.models.card import ModelCard
from engine.models.checkpoint import read_checkpoint, write_checkpoint
from engine.models.compat import channels_last, usable_device
from engine.models.dataset import Images, Progress, load_images
from engine.models.initial import load_initial
from engine.removal.adversary import Adversary
from engine.removal.composites import Composite, Marker, blend_layer
from engine.removal.losses import fine_tuning_loss, make_loss
from engine.removal.measure import measure_remover, split_samples
from engine.removal.network import Removal, RemovalNetwork
from engine.removal.perceptual import Vgg16Features
from engine.removal.recipe import RemoverParams, describe
from engine.removal.remover import build_network, save_remover
from engine.watermark.logo import Logo, load_logo

Report = Callable[[int, int, float], None]
"""Called with steps done, steps in all and the smoothed loss."""

_KEPT = 0.98
"""Of the smoothed loss, per step."""


class RemoverTrainer:
    """Training of one remover, a step at a time.

    Parameters
    ----------
    params
        How to train.
    hosts
        Images to mark, of side ``params.side``.
    initial
        Weights file to start from, or None.
    """

    def __init__(
        self, params: RemoverParams, hosts: Images, initial: Path | None = None
    ) -> None:
        self.params = params
        self.hosts = hosts
        self.device = usable_device(params.device)
        torch.manual_seed(params.seed)
        self.rng = np.random.default_rng(params.seed)
        self.network = _network(params)
        if initial is not None:
            load_initial(self.network, initial)
        channels_last(self.network)
        self.network.to(self.device)
        self.marker = Marker(params.ranges, _logo(params))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=params.learning_rate,
            betas=params.momentum,
            weight_decay=params.weight_decay,
        )
        self.draws = torch.Generator().manual_seed(params.seed)
        features = None
        if params.perceptual:
            features = Vgg16Features(Path(params.perceptual)).to(self.device)
        self.loss = make_loss(params.loss, generator=self.draws, features=features)
        self.adversary = Adversary(self.device) if params.adversary else None
        self.index = 0
        self.smoothed = math.nan

    def advance(self) -> float:
        """Take the next step, of either stage; the smoothed loss.

        Raises
        ------
        ModelError
            If the loss is no number any more.
        """
        p = self.params
        if self.index < p.steps:
            loss = self.step(self.index)
        else:
            loss = self.fine_tune_step(self.index - p.steps)
        if not math.isfinite(loss):
            raise ModelError(
                f"{p.label}: the loss is {loss} at step {self.index + 1}; lower "
                "learning_rate, or train in float32 (bf16=false)"
            )
        first = math.isnan(self.smoothed)
        self.smoothed = loss if first else _KEPT * self.smoothed + (1 - _KEPT) * loss
        self.index += 1
        return self.smoothed

    def draw(self) -> Composite:
        """One batch of pieces of marked images, most of them with the mark on."""
        p = self.params
        chosen = self.rng.integers(len(self.hosts), size=p.batch)
        host = self.hosts.take(torch.from_numpy(chosen)).pixels.float() / 255
        host = host.expand(-1, 3, -1, -1).clone()
        for i in range(p.batch):
            host[i] = self._vary(host[i])
        layer, opacity = self.marker.layer(host, self.rng)
        boxes = [self._box(matte[0]) for matte in layer[:, 3:]]
        pieces, layers = (_crop(part, boxes, p.crop) for part in (host, layer))
        truth = blend_layer(pieces, layers, opacity)
        return Composite(*(part.to(self.device) for part in truth))

    def _vary(self, host: torch.Tensor) -> torch.Tensor:
        if self.rng.random() < 0.5:
            host = host.flip(-1)
        if self.rng.random() < 0.5:
            host = host.transpose(-1, -2)
        host = (host * float(self.rng.uniform(0.7, 1.3))).clamp(0, 1)
        if self.rng.random() < self.params.colour:
            tint = torch.from_numpy(self.rng.uniform(0.4, 1.0, 3)).float()
            host = host * tint[:, None, None]
        return host

    def _box(self, mask: torch.Tensor) -> tuple[int, int]:
        """Upper-left corner of a piece, around a marked pixel four times in five."""
        limit = self.params.side - self.params.crop
        marked = mask.nonzero()
        if self.rng.random() < 0.2 or len(marked) == 0:
            y, x = self.rng.integers(0, limit + 1, 2)
        else:
            centre = marked[int(self.rng.integers(len(marked)))].numpy()
            y, x = centre - self.rng.integers(0, self.params.crop, 2)
        return int(np.clip(y, 0, limit)), int(np.clip(x, 0, limit))

    def step(self, index: int) -> float:
        """One step of the whole network on the full loss; the loss."""
        self._set_rate(index / max(1, self.params.steps))
        self.network.train()
        truth = self.draw()
        found = self._run(truth)
        loss = self.loss(found, truth)
        if self.adversary is None:
            return self._descend(loss)
        total = self._descend(loss + self.adversary.cost(truth.marked, found.image))
        self.adversary.learn(truth.marked, found.image, truth.host, index)
        return total

    def fine_tune_step(self, index: int) -> float:
        """One step after Eq. 2: mean squared error, encoder frozen; the loss."""
        done = index / max(1, self.params.fine_tune)
        self._set_rate(done, self.params.fine_tune_rate)
        self.network.train()
        for part in self.network.encoder_parts():
            # In evaluation the statistics of its norms are frozen too.
            part.eval().requires_grad_(requires_grad=False)
        truth = self.draw()
        return self._descend(fine_tuning_loss(self._run(truth), truth))

    def _run(self, truth: Composite) -> Removal:
        kind = self.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.params.bf16):
            removal: Removal = self.network(truth.marked)
        return removal

    def _descend(self, loss: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _set_rate(self, done: float, scale: float = 1.0) -> None:
        share = 1.0
        if self.params.schedule == "cycle":
            rise = min(1.0, (done + 1e-3) / 0.1)
            fall = 0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
            share = rise * fall
        for group in self.optimizer.param_groups:
            group["lr"] = self.params.learning_rate * share * scale

    def save(self, path: Path) -> None:
        """Write everything needed to go on later."""
        state = {
            "index": self.index,
            "smoothed": self.smoothed,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "adversary": self.adversary.state() if self.adversary else None,
            "rng": self.rng.bit_generator.state,
            "draws": self.draws.get_state(),
        }
        write_checkpoint(path, _params_text(self.params), state)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Raises
        ------
        ModelError
            If it was written by a training with other parameters.
        """
        state = read_checkpoint(path, _params_text(self.params))
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.adversary is not None:
            self.adversary.restore(state["adversary"])
        self.rng.bit_generator.state = state["rng"]
        self.draws.set_state(state["draws"])
        self.index, self.smoothed = int(state["index"]), float(state["smoothed"])


def _params_text(params: RemoverParams) -> str:
    return json.dumps(dataclasses.asdict(params), sort_keys=True)


def _network(params: RemoverParams) -> RemovalNetwork:
    try:
        return build_network(params.architecture, params.arguments)
    except ModelError as error:
        raise InvalidParameter(str(error)) from error


def _crop(whole: torch.Tensor, boxes: list[tuple[int, int]], side: int) -> torch.Tensor:
    pieces = [
        image[:, y : y + side, x : x + side]
        for image, (y, x) in zip(whole, boxes, strict=True)
    ]
    return torch.stack(pieces)


def train_remover(
    data: Path,
    params: RemoverParams,
    out: Path,
    *,
    initial: Path | None = None,
    report: Report | None = None,
    progress: Progress | None = None,
) -> ModelCard:
    """Train a remover on the images of ``data/train`` and write it to `out`.

    Without split folders one image in four is held out (3:1, by patient where
    known). An interrupted training goes on from ``out/NAME.checkpoint``, which is
    removed at the end.

    Returns
    -------
    ModelCard
        With the quality measured on ``data/test`` (the images held out) in
        ``measures``.

    Raises
    ------
    DatasetError
        If the images cannot be used.
    ModelError
        If the initial weights or the checkpoint do not fit, or the loss diverges.
    InvalidParameter
        If the network is unknown or the logo is not readable.
    """
    samples = split_samples(data, "train")
    trainer = RemoverTrainer(
        params, load_images(samples, params.side, progress), initial
    )
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / f"{params.label}.checkpoint"
    if checkpoint.is_file():
        trainer.resume(checkpoint)
    while trainer.index < params.total:
        loss = trainer.advance()
        if trainer.index % params.save_every == 0:
            trainer.save(checkpoint)
        if report is not None:
            report(trainer.index, params.total, loss)
    card = _card(params, len(samples), initial)
    save_remover(trainer.network.cpu(), card, out)
    checkpoint.unlink(missing_ok=True)
    return measure_remover(
        out / f"{params.label}.json", data, side=params.side, logo=_logo(params)
    )


def _logo(params: RemoverParams) -> Logo:
    return load_logo(Path(params.logo) if params.logo else None)


def _card(params: RemoverParams, images: int, initial: Path | None) -> ModelCard:
    return ModelCard(
        name=params.label,
        family="watermark remover",
        architecture=params.architecture,
        architecture_arguments=params.arguments,
        input_size=params.side,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        data=params.data,
        licence=params.licence,
        sizes={"train": images},
        seed=params.seed,
        recipe=f"{describe(params)}; logo {_logo(params).sha256[:12]}",
        date=datetime.now(UTC).date().isoformat(),
        initial_weights=f"{initial.name}: {params.initial_source}" if initial else "",
    )
