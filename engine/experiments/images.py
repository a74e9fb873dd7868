"""Labelled images to measure on: those that every member classifies correctly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from engine.errors import InvalidParameter
from engine.types import LEVELS, Frame, Rendering
from engine.watermark.working import working_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from engine.models.ensemble import Ensemble


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One labelled image.

    ``name`` is CLASS/FILE, ``label`` the index of its class in the ensemble,
    ``index`` its place in the selection.
    """

    name: str
    label: int
    frame: Frame = field(repr=False)
    index: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The images of a measurement.

    Attributes
    ----------
    names
        CLASS/FILE, in the order they are measured.
    examined
        How many images were looked at to find them.
    """

    names: tuple[str, ...]
    examined: int


def load_sample(
    data: Path, name: str, labels: tuple[str, ...], index: int = 0
) -> Sample:
    """Read an image as a frame of 8 bits, grey where it has no colour.

    Parameters
    ----------
    data
        Folder with one folder per class.
    name
        CLASS/FILE.
    labels
        Classes of the ensemble.
    index
        Place in the selection.
    """
    with Image.open(data / name) as picture:
        rgb = np.asarray(picture.convert("RGB")).astype(np.int32)
    grey = bool((rgb == rgb[..., :1]).all())
    frame = Frame(
        stored=np.ascontiguousarray(rgb[..., 0]) if grey else rgb,
        rendering=Rendering(lo=0.0, hi=float(LEVELS)),
        minimum=0,
        maximum=LEVELS,
    )
    label = labels.index(name.partition("/")[0])
    return Sample(name=name, label=label, frame=frame, index=index)


def at_side(sample: Sample, side: int) -> Sample:
    """Bring an image to `side` by `side` pixels, as the paper does before all else."""
    frame = sample.frame
    levels = Image.fromarray(frame.stored.astype(np.uint8))
    small = levels.resize((side, side), Image.Resampling.BILINEAR)
    stored = np.asarray(small).astype(np.int32)
    return replace(sample, frame=replace(frame, stored=stored))


def select(data: Path, ensemble: Ensemble, n: int, seed: int) -> Selection:
    """Pick n images, classes in turn, that all members classify correctly.

    Parameters
    ----------
    data
        Folder with one folder of ``.jpg`` or ``.png`` files per class.
    ensemble
        The members that must agree with the label.
    n
        How many; fewer are returned where there are not enough.
    seed
        Determines the order in which images are looked at.

    Raises
    ------
    InvalidParameter
        No folder of the data bears the name of a class.
    """
    labels = tuple(ensemble.labels)
    names: list[str] = []
    examined = 0
    for name in _in_turn(data, labels, seed):
        if len(names) == n:
            break
        examined += 1
        sample = load_sample(data, name, labels)
        if _all_correct(ensemble, sample):
            names.append(name)
    return Selection(names=tuple(names), examined=examined)


def _in_turn(data: Path, labels: tuple[str, ...], seed: int) -> Iterator[str]:
    """Names of all images, shuffled within a class, one class after another."""
    generator = np.random.default_rng(seed)
    per_class = []
    for label in labels:
        folder = data / label
        files = sorted(
            p.name for p in folder.glob("*") if p.suffix.lower() in {".jpg", ".png"}
        )
        per_class.append(
            [f"{label}/{files[i]}" for i in generator.permutation(len(files))]
        )
    if not any(per_class):
        raise InvalidParameter(
            f"{data}: no images in folders named {', '.join(labels)}; "
            "give a folder with one folder per class"
        )
    for group in itertools.zip_longest(*per_class):
        yield from (name for name in group if name is not None)


@torch.inference_mode()
def _all_correct(ensemble: Ensemble, sample: Sample) -> bool:
    device = ensemble.weights.device
    image = working_image(sample.frame.stored, sample.frame.rendering, device)
    said = ensemble.member_logits(image[None])[:, 0].argmax(dim=-1)
    return bool((said == sample.label).all())
