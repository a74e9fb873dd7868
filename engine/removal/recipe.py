"""How a remover is trained, as plain values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.errors import InvalidParameter
from engine.params import SITRanges
from engine.removal.composites import MarkRanges
from engine.removal.losses import LOSSES
from engine.removal.resunet import SplitNetSizes
from engine.removal.wdnet import WDNetSizes


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoverParams:
    """How a remover is trained.

    Attributes
    ----------
    name
        For the card and the files; empty for the architecture's.
    architecture, arguments
        "wdnet" or "splitnet", and the sizes to change, see
        `engine.removal.wdnet.WDNetSizes` and
        `engine.removal.resunet.SplitNetSizes`.
    loss
        "mini", "wdnet" or "splitnet", see `engine.removal.losses`.
    adversary
        Whether to train against a discriminator as WDNet was; off by default,
        for it costs time and small networks remove marks well without.
    perceptual
        File with VGG16's convolutions for the perceptual term; empty for none,
        since the package ships no such weights.
    side, crop
        Side of the images marks are put on, and of the piece trained on.
    steps, batch, learning_rate
        Of AdamW.
    momentum, weight_decay, schedule
        β of AdamW; its decay; "cycle" raises the rate over the first tenth of the
        steps and lowers it along a cosine, "constant" leaves it.
    fine_tune
        Further steps after Eq. 2: decoder only, encoder frozen, squared error.
    fine_tune_rate
        Highest learning rate of those, as a share of `learning_rate`.
    colour
        Share of gray images that are tinted, so that coloured marks occur.
    bf16
        Whether to compute in bfloat16 where torch's autocast allows.
    device
        What to compute on, in torch's words, e.g. ``cuda``.
    seed
        Every random draw derives from it.
    save_every
        Steps between checkpoints an interrupted training goes on from.
    ranges, logo
        Of the random marks; a logo file, empty for the packaged logo.
    data, licence, initial_source
        For the model card; the last is where the initial weights came from and
        under which licence.
    """

    name: str = ""
    architecture: str = "wdnet"
    arguments: dict[str, Any] = field(default_factory=dict)
    loss: str = "mini"
    adversary: bool = False
    perceptual: str = ""
    side: int = 224
    crop: int = 128
    steps: int = 3000
    batch: int = 8
    learning_rate: float = 2e-3
    momentum: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    schedule: Literal["cycle", "constant"] = "cycle"
    fine_tune: int = 0
    fine_tune_rate: float = 0.1
    colour: float = 0.25
    bf16: bool = False
    device: str = "cpu"
    seed: int = 2023
    save_every: int = 250
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
        if self.steps < 0 or self.fine_tune < 0 or self.steps + self.fine_tune < 1:
            raise InvalidParameter(
                f"steps={self.steps}, fine_tune={self.fine_tune}: neither may be "
                "negative, and one must be positive"
            )
        if self.batch < 1 or self.save_every < 1:
            raise InvalidParameter("batch and save_every must be positive")
        if self.loss not in LOSSES:
            raise InvalidParameter(
                f"loss={self.loss!r}: unknown; known are {', '.join(LOSSES)}"
            )
        if self.schedule not in ("cycle", "constant"):
            raise InvalidParameter(
                f"schedule={self.schedule!r}: must be cycle or constant"
            )

    @property
    def label(self) -> str:
        """What card and files are called."""
        return self.name or self.architecture

    @property
    def total(self) -> int:
        """Steps of both stages."""
        return self.steps + self.fine_tune


def paper_params(architecture: str, images: int) -> RemoverParams:
    """Give the published training of a network of published size.

    Parameters
    ----------
    architecture
        "wdnet" or "splitnet".
    images
        In the training split: steps are counted from the published epochs.

    Returns
    -------
    RemoverParams
        For marks as in the data set those were trained on (turned by any angle,
        opacity 0.3 to 0.7), in pieces of 256 pixels. WDNet's batch is not stated
        where we looked: 8. The perceptual terms need a weights file and are left
        to the caller.

    Raises
    ------
    InvalidParameter
        If the architecture is unknown.
    """
    ranges = MarkRanges(
        alpha=(0.3, 0.7), sl=(1.0, 8.0), sit=SITRanges(rotation=(-180.0, 180.0))
    )
    common = RemoverParams(
        architecture=architecture,
        side=256,
        crop=256,
        weight_decay=0.0,
        schedule="constant",
        ranges=ranges,
    )
    match architecture:
        case "wdnet":
            return dataclasses.replace(
                common,
                arguments=_plain(WDNetSizes.paper()),
                loss="wdnet",
                adversary=True,
                learning_rate=2e-4,
                momentum=(0.5, 0.999),
                steps=50 * max(1, images // 8),
            )
        case "splitnet":
            return dataclasses.replace(
                common,
                arguments=_plain(SplitNetSizes.paper()),
                loss="splitnet",
                learning_rate=1e-3,
                batch=4,
                steps=100 * max(1, images // 4),
            )
        case _:
            raise InvalidParameter(
                f"no published training of {architecture!r}; known are wdnet, splitnet"
            )


def _plain(sizes: WDNetSizes | SplitNetSizes) -> dict[str, Any]:
    """As plain data for JSON, where there are no tuples."""
    fields = dataclasses.asdict(sizes)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def describe(params: RemoverParams) -> str:
    """Put the recipe in one line, for the model card."""
    p, r = params, params.ranges
    terms = p.loss + (" with adversary" if p.adversary else "")
    terms += " with VGG16 term" if p.perceptual else ""
    stages = [f"{p.steps} steps on loss {terms}"] if p.steps else []
    if p.fine_tune:
        stages.append(f"{p.fine_tune} steps of Eq. 2 at {p.fine_tune_rate:g} of it")
    return (
        f"AdamW, {p.schedule} rate of {p.learning_rate:g}, {', then '.join(stages)}, "
        f"{p.batch} pieces of {p.crop} px of {p.side} px composites (sl {r.sl[0]:g} to "
        f"{r.sl[1]:g}, opacity {r.alpha[0]:g} to {r.alpha[1]:g}, {r.logos:.0%} logo, "
        f"the rest words and shapes; rotation {r.sit.rotation[0]:g} to "
        f"{r.sit.rotation[1]:g} degrees); {'bfloat16' if p.bf16 else 'float32'}; "
        f"seed {p.seed}"
    )
