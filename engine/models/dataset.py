"""Labelled images in folders: ``DIR/CLASS/*.jpg`` or ``DIR/{train,test}/CLASS``.

``DIR/groups.csv``, when present, has the columns ``split,class,file,group``; a
group (a patient, a lesion) never stands on both sides of a split.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from engine.models.matfile import read_slice
from engine.models.samples import DatasetError, Listing, Sample

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
"""Names an image file may end with, lower case."""

Progress = Callable[[int, int], None]
"""Called with how many items are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Decoded images in memory.

    Attributes
    ----------
    pixels
        ``(N, C, S, S)`` uint8, levels 0..255; C is 1 when every file is gray.
    targets
        ``(N,)`` int64, index of the class.
    """

    pixels: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return int(self.targets.shape[0])

    def take(self, indices: torch.Tensor) -> Images:
        """Take the images at `indices`, ``(M,)`` int64."""
        return Images(pixels=self.pixels[indices], targets=self.targets[indices])

    def to(self, device: str | torch.device) -> Images:
        """Move to a device."""
        return Images(pixels=self.pixels.to(device), targets=self.targets.to(device))


def list_split(data: Path, split: str) -> Listing:
    """Files of ``data/split/CLASS``, or of ``data/CLASS`` where there are no splits.

    Parameters
    ----------
    data
        The folder.
    split
        ``train`` or ``test``. Without split folders only ``train`` exists.

    Raises
    ------
    DatasetError
        If the folder or the split is missing, there are fewer than two classes,
        or a class is empty.
    """
    if not data.is_dir():
        raise DatasetError(f"{data}: no such folder; give DIR with DIR/CLASS/*.jpg")
    root = data / split
    if not root.is_dir():
        if split != "train":
            raise DatasetError(f"{data}: no {split}/ folder in it, with one per class")
        root = data
    labels = tuple(sorted(p.name for p in root.iterdir() if p.is_dir()))
    if len(labels) < 2:
        raise DatasetError(
            f"{root}: {len(labels)} class folder(s); a classifier needs at least two"
        )
    groups = _read_groups(data / "groups.csv", split)
    samples = [
        sample
        for index, label in enumerate(labels)
        for sample in _list_class(root / label, index, groups)
    ]
    return Listing(labels=labels, samples=tuple(samples))


def _list_class(
    folder: Path, label: int, groups: dict[tuple[str, str], str]
) -> list[Sample]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise DatasetError(
            f"{folder}: no image in it; expected {', '.join(sorted(SUFFIXES))}"
        )
    return [
        Sample(
            path=path,
            label=label,
            group=groups.get((folder.name, path.name), str(path)),
        )
        for path in paths
    ]


def _read_groups(path: Path, split: str) -> dict[tuple[str, str], str]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = {"split", "class", "file", "group"} - set(reader.fieldnames or ())
        if missing:
            raise DatasetError(
                f"{path}: column(s) {', '.join(sorted(missing))} missing"
            )
        return {
            (row["class"], row["file"]): row["group"]
            for row in reader
            if row["split"] == split
        }


def read_image(path: Path) -> Image.Image:
    """One image file, decoded, as mode ``L`` or ``RGB``.

    A ``.mat`` file is a slice of the figshare brain tumour data set.

    Raises
    ------
    DatasetError
        If it is not a readable image.
    """
    if path.suffix.lower() == ".mat":
        return Image.fromarray(read_slice(path))
    try:
        with Image.open(path) as image:
            image.load()
            return image.convert("L" if image.mode in {"L", "1"} else "RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{path}: not a readable image ({error}); remove or replace it"
        ) from error


def load_images(
    samples: Sequence[Sample], side: int, progress: Progress | None = None
) -> Images:
    """Decode `samples` and shrink or stretch each to `side` by `side` pixels.

    Raises
    ------
    DatasetError
        If a file is not a readable image.
    """
    arrays: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
    for done, sample in enumerate(samples, start=1):
        image = read_image(sample.path).resize((side, side), Image.Resampling.BILINEAR)
        arrays.append(np.asarray(image, dtype=np.uint8))
        if progress is not None:
            progress(done, len(samples))
    if any(a.ndim == 3 for a in arrays):
        arrays = [a if a.ndim == 3 else np.repeat(a[..., None], 3, 2) for a in arrays]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    else:
        pixels = torch.from_numpy(np.stack(arrays))[:, None]
    targets = torch.tensor([s.label for s in samples], dtype=torch.int64)
    return Images(pixels=pixels, targets=targets)


def hold_out(
    samples: Sequence[Sample], share: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split by group and class into what is trained on and what is held out.

    Parameters
    ----------
    share
        Share of each class's groups to hold out, in (0, 1); at least one group.

    Returns
    -------
    tuple of torch.Tensor
        Indices kept and held out, int64, sorted.

    Raises
    ------
    DatasetError
        If a class has a single group, which cannot be split.
    """
    rng = np.random.default_rng(seed)
    held: set[str] = set()
    for label in sorted({s.label for s in samples}):
        names = sorted({s.group for s in samples if s.label == label} - held)
        if len(names) < 2:
            raise DatasetError(
                f"class number {label} has {len(names)} group(s) of images: "
                "at least two are needed to hold some out"
            )
        count = min(max(1, round(share * len(names))), len(names) - 1)
        held.update(names[i] for i in rng.permutation(len(names))[:count])
    out = [i for i, s in enumerate(samples) if s.group in held]
    kept = [i for i, s in enumerate(samples) if s.group not in held]
    return torch.tensor(kept), torch.tensor(out)
