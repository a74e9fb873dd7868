"""What DCMTK's renderer shows of protected objects, against the engine's rendering.

What the engine optimised is ``engine.rendering.render`` of the stored integers;
what a reader sees is what a viewer makes of the object. Here ``dcm2pnm`` stands
for the viewer, with each window the object itself stores.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from rich.console import Console
from rich.progress import track

from benchmarks.corpus.expect import GREY
from benchmarks.corpus.readers import LONG_SECONDS, renderer
from benchmarks.corpus.run import Result
from benchmarks.corpus.window import StoredWindow, rendering_of, windows_of
from engine.rendering import render
from gateway.dicom.lenient import lenient

ALLOWED: Final = 1
"""Levels by which two renderers may differ."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One grey protected object under all its windows.

    Attributes
    ----------
    file, object_path
        The original's name, and the protected object's file.
    sop_class, bits_stored, photometric
        Of the protected object.
    frames, windows
        How many frames, and how many windows one frame has.
    pixels
        Pixels compared over all frames and windows.
    largest
        Largest difference in levels.
    exact, within
        Pixels without any difference, and within `ALLOWED`.
    failure
        Why it could not be compared; '' is good.
    """

    file: str
    object_path: str
    sop_class: str
    bits_stored: int
    photometric: str
    frames: int
    windows: int
    pixels: int = 0
    largest: int = 0
    exact: int = 0
    within: int = 0
    failure: str = ""

    @property
    def holds(self) -> bool:
        """Whether every pixel of every window was seen and is within ±1."""
        return not self.failure and 0 < self.pixels == self.within


@dataclass(frozen=True, kw_only=True)
class _Difference:
    pixels: int
    largest: int
    exact: int
    within: int


class NotRendered(Exception):
    """The renderer failed, or made another picture than asked."""


def compare_all(result: Result, directory: Path, console: Console) -> list[Comparison]:
    """Compare every grey protected object of a run, and write ``viewer.json``.

    Parameters
    ----------
    result
        Of the run.
    directory
        Its folder.
    console
        Where progress is shown.
    """
    objects = [(row.file, path) for row in result.rows for path in row.protected]
    found = []
    for file, path in track(objects, "rendered by DCMTK", console=console):
        compared = compare(file, path, directory)
        if compared is not None:
            found.append(compared)
    table = [asdict(one) for one in found]
    (directory / "viewer.json").write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    return found


def read_comparisons(directory: Path) -> list[Comparison] | None:
    """Read ``viewer.json``; None where there is none."""
    path = directory / "viewer.json"
    if not path.is_file():
        return None
    return [Comparison(**one) for one in json.loads(path.read_text("utf-8"))]


def compare(file: str, path: str, directory: Path) -> Comparison | None:
    """Compare one protected object; None for colour and for what has no pixels."""
    with lenient():
        dataset = dcmread(directory / path)
        if dataset.get("PhotometricInterpretation") not in GREY:
            return None
        frames = int(dataset.get("NumberOfFrames") or 1)
        failure, differences = "", []
        try:
            differences = list(_differences(dataset, directory / path, frames))
        except NotRendered as error:
            failure = str(error)
        return Comparison(
            file=file,
            object_path=path,
            sop_class=dataset.SOPClassUID.name,
            bits_stored=int(dataset.BitsStored),
            photometric=str(dataset.PhotometricInterpretation),
            frames=frames,
            windows=len(windows_of(dataset, 0)),
            pixels=sum(one.pixels for one in differences),
            largest=max((one.largest for one in differences), default=0),
            exact=sum(one.exact for one in differences),
            within=sum(one.within for one in differences),
            failure=failure,
        )


def _differences(dataset: Dataset, path: Path, frames: int) -> Iterator[_Difference]:
    """Differences of every frame under each of its windows."""
    try:
        stored = np.asarray(dataset.pixel_array, dtype=np.int32)
    except Exception as error:
        raise NotRendered(f"pydicom reads no pixels: {type(error).__name__}") from error
    stored = stored.reshape(frames, *stored.shape[-2:])
    tool = renderer(str(dataset.file_meta.TransferSyntaxUID))
    for frame in range(frames):
        windows = windows_of(dataset, frame)
        if not windows:
            raise NotRendered(f"frame {frame + 1} has no window")
        for window in windows:
            linear = window.linear
            if linear is None:
                raise NotRendered(f"window function {window.function}")
            shown = _shown(tool, path, frame, window)
            rendering = rendering_of(dataset, frame, *linear)
            yield _difference(shown, render(stored[frame], rendering))


def _shown(
    tool: str, path: Path, frame: int, window: StoredWindow
) -> NDArray[np.uint8]:
    """Picture of one frame by DCMTK, 8 bits, without overlays."""
    linear = window.linear
    assert linear is not None
    asked = ["+Wi", str(window.number)]
    if window.number == 0 or window.function != "LINEAR":
        # dcm2pnm reads no functional groups, and knows no LINEAR_EXACT.
        asked = ["+Ww", *(repr(value) for value in linear)]
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "frame.pgm"
        command = [tool, "+F", str(frame + 1), *asked, "-O", "+op"]
        done = subprocess.run(
            [*command, str(path), str(picture)],
            capture_output=True,
            check=False,
            timeout=LONG_SECONDS,
        )
        if done.returncode != 0 or not picture.exists():
            raise NotRendered(f"{tool} ended with {done.returncode}")
        with Image.open(picture) as image:
            return np.asarray(image.convert("L"), dtype=np.uint8)


def _difference(shown: NDArray[np.uint8], expected: NDArray[np.uint8]) -> _Difference:
    if shown.shape != expected.shape:
        raise NotRendered(f"a picture of {shown.shape} for {expected.shape}")
    gap = np.abs(shown.astype(np.int16) - expected.astype(np.int16))
    return _Difference(
        pixels=gap.size,
        largest=int(gap.max()),
        exact=int((gap == 0).sum()),
        within=int((gap <= ALLOWED).sum()),
    )


def viewer_section(compared: Sequence[Comparison]) -> str:
    """Section of the page: differences by kind of object, and what failed."""
    kinds: defaultdict[tuple[str, int, str], list[Comparison]] = defaultdict(list)
    for one in compared:
        kinds[one.sop_class, one.bits_stored, one.photometric].append(one)
    lines = [
        f"| {name} | {bits} | {photometric} | {_kind(found)} |"
        for (name, bits, photometric), found in sorted(kinds.items())
    ]
    failed = [
        f"- `{one.file}` ({one.object_path}): {one.failure or _beyond(one)}"
        for one in compared
        if not one.holds
    ]
    held = sum(one.holds for one in compared)
    said = (
        "DCMTK's `dcm2pnm` with each window the protected object stores, against "
        "the engine's rendering of the same integers under the same window as "
        f"pydicom reads it: within ±{ALLOWED} level on every pixel of every frame "
        f"in {held} of {len(compared)} grey objects."
    )
    headings = (
        "| object | bits | photometric | objects | frames | windows | pixels "
        "| largest difference | exact, % | within ±1, % |"
    )
    rule = "|" + "---|" * headings[1:].count("|")
    parts = ["## What a viewer sees", "", said, "", headings, rule, *lines, ""]
    return "\n".join([*parts, *failed, ""] if failed else parts)


def _kind(found: Sequence[Comparison]) -> str:
    pixels = sum(one.pixels for one in found)
    exact, within = sum(o.exact for o in found), sum(o.within for o in found)
    share = [100 * part / pixels if pixels else 0.0 for part in (exact, within)]
    windows = sorted({one.windows for one in found})
    return (
        f"{len(found)} | {sum(one.frames for one in found)} "
        f"| {', '.join(map(str, windows))} | {pixels:,} "
        f"| {max(one.largest for one in found)} | {share[0]:.2f} | {share[1]:.4f}"
    )


def _beyond(one: Comparison) -> str:
    beyond = one.pixels - one.within
    return f"{beyond} of {one.pixels} pixels beyond ±1, largest {one.largest}"
