"""Folders of labelled images: listing, decoding, splitting, refusing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.models.dataset import (
    DatasetError,
    Sample,
    hold_out,
    list_split,
    load_images,
)
from tests.engine.models_small import LABELS, write_pictures


def test_split_folders_are_listed_in_order(tmp_path: Path) -> None:
    listing = list_split(write_pictures(tmp_path, count=3), "test")
    assert listing.labels == LABELS
    assert [s.label for s in listing.samples] == [0] * 3 + [1] * 3 + [2] * 3
    assert all("test" in s.path.parts for s in listing.samples)


def test_a_folder_of_classes_is_a_training_split(tmp_path: Path) -> None:
    train = write_pictures(tmp_path, count=2) / "train"
    assert len(list_split(train, "train").samples) == 6
    with pytest.raises(DatasetError, match="no test/ folder"):
        list_split(train, "test")


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone: no such folder"):
        list_split(tmp_path / "gone", "train")


def test_one_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    with pytest.raises(DatasetError, match="1 class folder"):
        list_split(tmp_path, "train")


def test_empty_class_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, count=1)
    (tmp_path / "train" / "none").mkdir()
    (tmp_path / "train" / "none" / "notes.txt").write_text("?")
    with pytest.raises(DatasetError, match="none: no image in it"):
        list_split(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_unreadable_image_is_named(content: bytes, tmp_path: Path) -> None:
    write_pictures(tmp_path, count=1)
    broken = tmp_path / "train" / "dark" / "zz.jpg"
    broken.write_bytes(content)
    samples = list_split(tmp_path, "train").samples
    with pytest.raises(DatasetError, match=r"zz\.jpg: not a readable image"):
        load_images(samples, 32)


def test_gray_images_stay_one_channel(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    listing = list_split(write_pictures(tmp_path, count=2), "train")
    images = load_images(
        listing.samples, 32, lambda done, total: seen.append((done, total))
    )
    assert images.pixels.shape == (6, 1, 32, 32)
    assert images.pixels.dtype == torch.uint8
    assert images.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert seen == [(i, 6) for i in range(1, 7)]


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    write_pictures(tmp_path, count=1)
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "train" / "dark" / "red.png")
    images = load_images(list_split(tmp_path, "train").samples, 32)
    assert images.pixels.shape == (4, 3, 32, 32)
    assert images.pixels[2, :, 5, 5].tolist() == [200, 0, 0]
    assert torch.equal(images.pixels[0, 0], images.pixels[0, 2])


def groups_of(samples: tuple[Sample, ...], indices: torch.Tensor) -> set[str]:
    return {samples[int(i)].group for i in indices}


def test_groups_are_never_split(tmp_path: Path) -> None:
    write_pictures(tmp_path, count=12)
    with (tmp_path / "groups.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["split", "class", "file", "group"])
        for label in LABELS:
            for i in range(12):
                writer.writerow(["train", label, f"{i:02}.png", f"{label}{i // 3}"])
    samples = list_split(tmp_path, "train").samples
    kept, held = hold_out(samples, 0.25, seed=1)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(36))
    assert not groups_of(samples, kept) & groups_of(samples, held)
    assert len(held) == 9
    assert {samples[int(i)].label for i in held} == {0, 1, 2}


def test_split_depends_on_the_seed_only(tmp_path: Path) -> None:
    samples = list_split(write_pictures(tmp_path), "train").samples
    first, again, other = (hold_out(samples, 0.25, s)[1].tolist() for s in (1, 1, 2))
    assert first == again != other


def test_a_class_of_one_group_cannot_be_split(tmp_path: Path) -> None:
    samples = list_split(write_pictures(tmp_path, count=1), "train").samples
    with pytest.raises(DatasetError, match="at least two are needed"):
        hold_out(samples, 0.1, seed=1)


def test_groups_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, count=1)
    (tmp_path / "groups.csv").write_text("file,patient\na,b\n")
    with pytest.raises(DatasetError, match=r"column\(s\) class, group, split missing"):
        list_split(tmp_path, "train")
