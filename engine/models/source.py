"""Where labelled images come from: a folder, a table, or a published data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.models.dataset import hold_out, list_split
from engine.models.layouts import btmri, isic2019, messidor, table
from engine.models.samples import DatasetError, Listing

Reader = Callable[[Path], dict[str, Listing]]

_READERS: Final[dict[str, tuple[Callable[[Path], bool], Reader]]] = {
    "csv": (table.recognises, table.read),
    "isic2019": (isic2019.recognises, isic2019.read),
    "messidor": (messidor.recognises, messidor.read),
    "btmri": (btmri.recognises, btmri.read),
}

LAYOUTS: Final = ("auto", "folders", *_READERS)
"""Names of layouts; ``auto`` recognises the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A data set and how it is divided.

    Attributes
    ----------
    path
        A folder ``DIR/[train|test/]CLASS/*.jpg``, a CSV, or the folder of a
        published data set.
    layout
        One of `LAYOUTS`.
    test_share
        Share of the groups of each class held out for the test where the data
        come without a test split; 0.25 is the paper's 3:1, 0 holds none out.
    seed
        Of that choice.

    Raises
    ------
    DatasetError
        If the layout is unknown or the share is not in [0, 1).
    """

    path: Path
    layout: str = "auto"
    test_share: float = 0.0
    seed: int = 2023

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise DatasetError(
                f"layout {self.layout!r}: must be one of {', '.join(LAYOUTS)}"
            )
        if not 0 <= self.test_share < 1:
            raise DatasetError(f"test share {self.test_share}: must lie in [0, 1)")

    def split(self, name: str) -> Listing:
        """List the ``train`` or the ``test`` images.

        Raises
        ------
        DatasetError
            If the data cannot be read, or have no such split.
        """
        splits = self._splits()
        if name not in splits:
            raise DatasetError(
                f"{self.path}: no {name} split in it; give it one, or hold images out "
                "with a test share (0.25 is the paper's)"
            )
        return splits[name]

    @property
    def has_test(self) -> bool:
        """Whether there is a test split, published or held out."""
        return "test" in self._splits()

    def _splits(self) -> dict[str, Listing]:
        splits = self._published()
        whole = splits.get("") or splits.get("train")
        if whole is None or "test" in splits:
            return splits
        return self._divided(whole) if self.test_share else {"train": whole}

    def _published(self) -> dict[str, Listing]:
        for name, (recognises, read) in _READERS.items():
            if self.layout == name or (self.layout == "auto" and recognises(self.path)):
                return read(self.path)
        return _folders(self.path)

    def _divided(self, whole: Listing) -> dict[str, Listing]:
        kept, held = hold_out(whole.samples, self.test_share, self.seed)
        return {
            name: Listing(
                labels=whole.labels,
                samples=tuple(whole.samples[int(i)] for i in indices),
            )
            for name, indices in (("train", kept), ("test", held))
        }


def _folders(path: Path) -> dict[str, Listing]:
    names = [name for name in ("train", "test") if (path / name).is_dir()]
    if not names:
        return {"": list_split(path, "train")}
    return {name: list_split(path, name) for name in names}


def as_source(data: Path | Source) -> Source:
    """Take a path for a source recognised by itself, without a test share."""
    return data if isinstance(data, Source) else Source(path=data)
