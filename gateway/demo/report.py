"""The demo's page: pictures a person can look at, and the table.

Pictures show what a viewer with the stored window shows.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jinja2 import Environment
from PIL import Image

from engine.rendering import render
from gateway.dicom.pixels import Reading, read_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PICTURE_SIDE: Final = 420
GAIN: Final = 8  # how much the difference picture is amplified


@dataclass(frozen=True, kw_only=True)
class Row:
    """What happened to one instance, as the table and the JSON give it."""

    name: str
    sop_class_uid: str
    protected_sop_instance_uid: str
    objective: str
    before: str
    after: str
    misled: bool
    displacement: float | None
    alpha: int
    x: int
    y: int
    queries: int
    seconds: float
    ssim: float
    psnr: float
    valid: bool | None
    recovered_exactly: bool
    stranger_refused: bool


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The encoded forms of one instance that the page shows.

    ``original``, ``protected`` and ``recovered`` are pairs of data set bytes and
    transfer syntax UID; ``boxes`` are lesion boxes ``(x0, y0, x1, y1)`` on the
    native frame.
    """

    original: tuple[bytes, str]
    protected: tuple[bytes, str]
    recovered: tuple[bytes, str] | None
    boxes: Sequence[tuple[int, int, int, int]]


def write_report(
    directory: Path,
    rows: Sequence[Row],
    pictures: Sequence[Pictures | None],
    summary: Mapping[str, Any],
) -> Path:
    """Write ``index.html`` and its pictures.

    Parameters
    ----------
    directory
        Made when absent; pictures go to its ``images`` folder.
    rows, pictures
        One each per instance, in the same order; None where nothing arrived.
    summary
        Facts shown above the table.

    Returns
    -------
    Path
        The page.
    """
    images = directory / "images"
    images.mkdir(parents=True, exist_ok=True)
    cards = []
    for number, (row, picture) in enumerate(zip(rows, pictures, strict=True), 1):
        names = _write_pictures(images, number, picture) if picture else []
        cards.append({"row": row, "pictures": names})
    template = files("gateway.demo").joinpath("report.html.j2").read_text("utf-8")
    page = Environment(autoescape=True).from_string(template)
    path = directory / "index.html"
    path.write_text(page.render(cards=cards, summary=summary, gain=GAIN), "utf-8")
    return path


def write_json(path: Path, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    """Write the table as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {**summary, "instances": [asdict(row) for row in rows]}
    path.write_text(json.dumps(table, indent=2) + "\n", "utf-8")


def _write_pictures(
    images: Path, number: int, picture: Pictures
) -> list[tuple[str, str]]:
    original = _levels(*picture.original)
    protected = _levels(*picture.protected)
    shown = {
        "original": original,
        "lesion mask": _with_boxes(original, picture.boxes),
        "protected": protected,
        f"difference ×{GAIN}": _difference(original, protected),
    }
    if picture.recovered is not None:
        shown["recovered"] = _levels(*picture.recovered)
    names = []
    for caption, levels in shown.items():
        word = caption.split()[0]
        name = f"images/{number:02d}-{word}.png"
        _save(levels, images / f"{number:02d}-{word}.png")
        names.append((caption, name))
    return names


def _levels(data_set: bytes, transfer_syntax_uid: str) -> NDArray[np.uint8]:
    reading = Reading(max_frames=1000)
    frame = read_source(data_set, transfer_syntax_uid, reading=reading).frame(0)
    return render(frame.stored, frame.rendering)


def _difference(
    original: NDArray[np.uint8], protected: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    gap = np.abs(original.astype(np.int16) - protected.astype(np.int16)) * GAIN
    shown: NDArray[np.uint8] = np.minimum(gap, 255).astype(np.uint8)
    return shown


def _with_boxes(
    levels: NDArray[np.uint8], boxes: Sequence[tuple[int, int, int, int]]
) -> NDArray[np.uint8]:
    """Tint what lies inside the boxes red and dim the rest."""
    rgb = levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=2)
    inside = np.zeros(rgb.shape[:2], dtype=bool)
    for x0, y0, x1, y1 in boxes:
        inside[y0:y1, x0:x1] = True
    out = (rgb * 0.5).astype(np.uint8)
    tinted = 0.6 * rgb + 0.4 * np.array([255.0, 40.0, 40.0])
    out[inside] = tinted[inside].astype(np.uint8)
    return out


def _save(levels: NDArray[np.uint8], path: Path) -> None:
    image = Image.fromarray(levels)
    scale = PICTURE_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    image.resize(size, how).save(path)
