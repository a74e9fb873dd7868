"""Train a remover on random composites; fine-tune it after Eq. 2."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from engine.errors import InvalidParameter
from engine.models.card import ModelCard
from engine.models.compat import channels_last, usable_device
from engine.models.dataset import Images, Progress, list_split, load_images
from engine.models.initial import load_initial
from engine.removal.composites import Composite, Marker, MarkRanges, blend_layer
from engine.removal.measure import measure_remover
from engine.removal.network import Removal
from engine.removal.remover import save_remover
from engine.removal.wdnet import WDNet
from engine.watermark.logo import Logo, load_logo

Report = Callable[[int, int, float], None]
"""Called with steps done, steps in all and the smoothed loss."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoverParams:
    """How a remover is trained.

    Attributes
    ----------
    name
        For the card and the files.
    arguments
        Of `WDNet`.
    side, crop
        Side of the images marks are put on, and of the piece trained on.
    steps, batch, learning_rate
        Of AdamW, one cycle.
    fine_tune
        Further steps after Eq. 2: decoder only, encoder frozen, squared error.
    colour
        Share of gray images that are tinted, so that coloured marks occur.
    bf16
        Whether to compute in bfloat16 where torch's autocast allows.
    device
        What to compute on, in torch's words, e.g. ``cuda``.
    seed
        Every random draw derives from it.
    ranges, logo
        Of the random marks; a logo file, empty for the packaged logo.
    data, licence, initial_source
        For the model card; the last is where the initial weights came from and
        under which licence.
    """

    name: str = "wdnet"
    arguments: dict[str, Any] = field(default_factory=dict)
    side: int = 224
    crop: int = 128
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 2e-3
    fine_tune: int = 0
    colour: float = 0.25
    bf16: bool = False
    device: str = "cpu"
    seed: int = 2023
    ranges: MarkRanges = field(default_factory=MarkRanges)
    logo: str = ""
    data: str = ""
    licence: str = ""
    initial_source: str = "source not stated"

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.side:
            raise InvalidParameter(
                f"crop={self.crop}: must lie in 1..{self.side}, the side of the images"
            )
        if self.steps < 1 or self.batch < 1 or self.fine_tune < 0:
            raise InvalidParameter("steps and batch must be positive")


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
        device = usable_device(params.device)
        torch.manual_seed(params.seed)
        self.rng = np.random.default_rng(params.seed)
        self.network = WDNet(**params.arguments)
        if initial is not None:
            load_initial(self.network, initial)
        channels_last(self.network)
        self.network.to(device)
        self._kind = device.type
        self.marker = Marker(params.ranges, _logo(params))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=params.learning_rate, weight_decay=1e-4
        )

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
        return Composite(*(part.to(p.device) for part in truth))

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
        self._set_rate(index / self.params.steps)
        self.network.train()
        truth = self.draw()
        return self._descend(removal_loss(self._run(truth), truth))

    def fine_tune_step(self, index: int) -> float:
        """One step after Eq. 2: mean squared error, encoder frozen; the loss."""
        self._set_rate(0.5 + 0.5 * index / max(1, self.params.fine_tune), scale=0.1)
        self.network.train()
        for part in self.network.encoder_parts():
            part.eval().requires_grad_(requires_grad=False)
        truth = self.draw()
        loss = functional.mse_loss(self._run(truth).image, truth.host)
        return self._descend(loss)

    def _run(self, truth: Composite) -> Removal:
        with torch.autocast(self._kind, torch.bfloat16, enabled=self.params.bf16):
            removal: Removal = self.network(truth.marked)
        return removal

    def _descend(self, loss: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _set_rate(self, done: float, scale: float = 1.0) -> None:
        rise = min(1.0, (done + 1e-3) / 0.1)
        fall = 0.005 + 0.995 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.params.learning_rate * rise * fall * scale


def _crop(whole: torch.Tensor, boxes: list[tuple[int, int]], side: int) -> torch.Tensor:
    pieces = [
        image[:, y : y + side, x : x + side]
        for image, (y, x) in zip(whole, boxes, strict=True)
    ]
    return torch.stack(pieces)


def removal_loss(found: Removal, truth: Composite) -> torch.Tensor:
    """Loss of a removal: result, mask, opacity and colours.

    Five times the absolute error inside the mark (relative to its area), five
    times that over the whole image, twice the cross-entropy of the mask, and
    the absolute errors of opacity (whole image) and colours (inside the mark).
    """
    area = truth.mask.sum() * 3 + 1
    error = (found.image - truth.host).abs()
    inside = (error * truth.mask).sum() / area
    colours = ((found.watermark - truth.watermark).abs() * truth.mask).sum() / area
    mask = found.mask.clamp(1e-4, 1 - 1e-4)
    return (
        5 * inside
        + 5 * error.mean()
        + 2 * functional.binary_cross_entropy(mask, truth.mask)
        + 2 * (found.alpha - truth.alpha).abs().mean()
        + 0.5 * colours
    )


def describe(params: RemoverParams) -> str:
    """Put the recipe in one line, for the model card."""
    p, r = params, params.ranges
    tuned = f", then {p.fine_tune} steps of Eq. 2" if p.fine_tune else ""
    return (
        f"AdamW, one cycle to {p.learning_rate:g}, {p.steps} steps of {p.batch} pieces "
        f"of {p.crop} px of {p.side} px composites (sl {r.sl[0]:g} to {r.sl[1]:g}, "
        f"opacity {r.alpha[0]:g} to {r.alpha[1]:g}, {r.logos:.0%} logo, the rest words "
        f"and shapes; rotation {r.sit.rotation[0]:g} to {r.sit.rotation[1]:g} degrees)"
        f"{tuned}; {'bfloat16' if p.bf16 else 'float32'}; seed {p.seed}"
    )


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

    Returns
    -------
    ModelCard
        With the quality measured on ``data/test`` (``data`` itself without
        splits) in ``measures``.

    Raises
    ------
    DatasetError
        If the images cannot be used.
    ModelError
        If the initial weights do not fit.
    InvalidParameter
        If the logo is not readable.
    """
    samples = list_split(data, "train").samples
    hosts = load_images(samples, params.side, progress)
    trainer = RemoverTrainer(params, hosts, initial)
    total = params.steps + params.fine_tune
    smooth = 0.0
    for index in range(total):
        if index < params.steps:
            loss = trainer.step(index)
        else:
            loss = trainer.fine_tune_step(index - params.steps)
        smooth = loss if index == 0 else 0.98 * smooth + 0.02 * loss
        if report is not None:
            report(index + 1, total, smooth)
    card = _card(params, len(samples), initial)
    save_remover(trainer.network.cpu(), card, out)
    return measure_remover(
        out / f"{params.name}.json", data, side=params.side, logo=_logo(params)
    )


def _logo(params: RemoverParams) -> Logo:
    return load_logo(Path(params.logo) if params.logo else None)


def _card(params: RemoverParams, images: int, initial: Path | None) -> ModelCard:
    return ModelCard(
        name=params.name,
        family="watermark remover",
        architecture="wdnet",
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
