"""How large the key record of a real file is: the table in docs/record-format.md.

Run ``python benchmarks/record_sizes.py``; no models and no search are needed.
δ is uniform noise in -8..8 on a 224 grid, which no codec makes smaller: keys of
the engine are smaller than these. α is 128/255, the mark the packaged logo.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engine.types import SIT, Frame, FrameKey
from engine.watermark.logo import load_logo
from engine.watermark.patch import render_patch, scaled_size
from engine.watermark.stored import Mark, add_mark, apply_delta, make_key
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.parse import data_set_offset
from gateway.dicom.pixels import read_source
from gateway.stages.protect import Original, protect_object
from gateway.vault.codec import pack_image

GRID = 224
ALPHA = 128
SCALE = 2.0  # Eq. 5
FILES = (
    "CT_small.dcm",
    "693_UNCR.dcm",
    "MR_small.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm",
    "MR2_UNCR.dcm",
    "RG1_UNCR.dcm",
    "RG3_UNCR.dcm",
    "eCT_Supplemental.dcm",
    "emri_small.dcm",
    "US1_UNCR.dcm",
    "examples_rgb_color.dcm",
    "examples_palette.dcm",
    "693_J2KR.dcm",
    "MR2_J2KR.dcm",
    "US1_J2KR.dcm",
    "JPEG-LL.dcm",
    "OBXXXX1A_rle.dcm",
    "examples_ybr_color.dcm",
)


@dataclass(frozen=True)
class Done:
    """Report of a mark that was not searched."""

    success: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}


@dataclass(frozen=True)
class Marked:
    """A frame with a mark at a random place."""

    stored: np.ndarray
    key: FrameKey
    report: Done
    trace: None = None


class RandomMark:
    """The integer blend of the engine without its search."""

    def protect(self, frame: Frame, *, seed: bytes, progress: object) -> Marked:
        """Mark one frame."""
        del progress
        rng = np.random.default_rng(list(seed))
        rows, columns = frame.stored.shape[:2]
        logo = load_logo()
        size = scaled_size((columns, rows), logo.size, SCALE)
        shape = (GRID, GRID, *frame.stored.shape[2:])
        delta = rng.integers(-8, 9, shape).astype(np.int8)
        mark = Mark(
            x=int(rng.integers(0, columns - size[0] + 1)),
            y=int(rng.integers(0, rows - size[1] + 1)),
            alpha=ALPHA,
            sit=SIT(),
            patch=render_patch(logo, size, SIT(), grey=not frame.colour),
        )
        stored = add_mark(apply_delta(frame, delta), frame, mark)
        key = make_key(frame, stored, mark, delta=delta, logo_sha256=logo.sha256)
        return Marked(stored, key, Done())


def installed(name: str) -> Path:
    """Find a file of the packages pydicom and pydicom-data, on disk only."""
    for package in ("pydicom", "data_store"):
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            for path in Path(root).rglob(name):
                return path
    raise SystemExit(f"no {name}: pip install pydicom-data")


def row(path: Path) -> str:
    """One line of the table."""
    data = path.read_bytes()
    offset, syntax = data_set_offset(data)
    source = read_source(data[offset:], syntax, max_frames=200)
    made = protect_object(
        Original(data=data, kind="file", name=path.name),
        protector=RandomMark(),
        uids=UidMapper(bytes(32)),
        max_frames=200,
    )
    width = 1 if source.bits_stored <= 8 else 2
    raw = sum(frame.stored.size for frame in source.frames) * width
    lossless = sum(len(pack_image(frame.stored).data) for frame in source.frames)
    shape = "x".join(map(str, source.frames[0].stored.shape))
    return (
        f"| {path.name} | {len(source.frames)} x {shape}, {source.bits_stored} bit "
        f"| {raw:,} | {len(data):,} | {made.record.custody_name} "
        f"| {made.record_bytes:,} | {100 * made.record_bytes / raw:.1f} "
        f"| {100 * lossless / raw:.1f} |"
    )


def main() -> None:
    """Print the table."""
    print(
        "| file | pixels | raw octets | file octets | custody | record octets "
        "| % of raw | lossless original, % of raw |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in FILES:
        print(row(installed(name)), flush=True)


if __name__ == "__main__":
    main()
