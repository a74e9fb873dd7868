"""How large the key record of a real file is, with the engine's own mark and δ.

    python -m benchmarks.record_sizes [--out docs/results/keys.md]

Each image is protected as a gateway with the default settings does it: δ_D by
PGD against the packaged removers, the default search. The same mark is then
blended over the image without δ, with uniform noise in -8..8 on the model grid,
which no codec makes small, and with δ made at native resolution; only δ differs
between the columns.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread

from benchmarks.corpus.find import FoundFile, find_corpus
from benchmarks.random_mark import noise, protect_with
from config.schema import Protection
from engine.protection.protector import Protector
from engine.protection.values import ProtectedFrame
from engine.types import Frame, FrameKey
from engine.watermark.stored import Mark, add_mark, apply_delta, make_key
from gateway.dicom.lenient import lenient
from gateway.dicom.pixels import Reading, Source, read_source
from gateway.route.attributes import attributes_of
from gateway.stages.offline import NoAssociation
from gateway.stages.protect import Original
from gateway.stages.protectors import Protectors
from gateway.vault.codec import pack_array, pack_bytes, pack_image
from gateway.vault.shell import Shell, take_shell

BYTE: Final = 8
MEAN_BOUND: Final = 8.0
"""Mean size of a key with δ on the grid, in % of raw pixel octets, at most."""

NO_DELTA, GRID, NOISE, NATIVE = "no δ", "grid δ", "noise δ", "native δ"

HEADER: Final = 4096
"""Octets a record's header may take beside its blobs."""

INTRODUCTION: Final = """\
Made by `make keys`: real files, the default search and δ
(PGD against the packaged removers); in % of the raw pixel octets. Under one mark
only δ differs: none, δ on the 224 grid as it is made and kept, uniform noise in
−8 … 8 on that grid, and δ made at native resolution.
*Lossless original* is the pixels alone, *sealed original* all received octets; the
photo came as JPEG, whose bitstream is smaller than any lossless encoding of its
pixels and is what is sealed. `auto` is the whole record as the gateway keeps it,
header included."""

FILES: Final = {
    "CT 512², 14 bit": "693_UNCR.dcm",
    "MR 484², 12 bit": "MR-SIEMENS-DICOM-WithOverlays.dcm",
    "MR 1024², 12 bit": "MR2_UNCR.dcm",
    "CR 1841x1955, 15 bit": "RG1_UNCR.dcm",
    "CR 1760², 10 bit": "RG3_UNCR.dcm",
    "US 640x480, RGB 8": "US1_UNCR.dcm",
    "photo 2048x1536, RGB 8": "image4.dcm",
}
"""Real files of pydicom-data and deid-data; none is decompressed from lossy."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Octets of one image's records, each without its few hundred of header.

    Attributes
    ----------
    kind, file
        What the image is, and where it comes from.
    raw
        Pixels uncompressed.
    lossless
        Pixels by JPEG-LS or Zstandard, the smaller.
    sealed
        Sealed-original record: the received octets, the smaller way.
    keys
        Key record, by what δ is.
    custody, record
        What ``auto`` chose for the real protected object, and all its octets.
    alpha, misled
        Of the mark that the search found.
    """

    kind: str
    file: str
    raw: int
    lossless: int
    sealed: int
    keys: Mapping[str, int]
    custody: str
    record: int
    alpha: int
    misled: bool

    def share(self, octets: int) -> float:
        """Octets in % of the raw pixels."""
        return 100 * octets / self.raw


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Gives the one frame of an object, which is protected already."""

    done: ProtectedFrame

    def protect_many(
        self, frames: Sequence[Frame], **_known: object
    ) -> list[ProtectedFrame]:
        """Return what became of the frame."""
        assert len(frames) == 1
        return [self.done]


def measure(kind: str, file: FoundFile) -> Sizes:
    """Protect the one frame of a file and size its records."""
    original = Original(
        data=file.data_set(),
        kind="data-set",
        transfer_syntax_uid=file.transfer_syntax_uid,
    )
    protector, reading = _as_configured(file)
    source = read_source(original.data, file.transfer_syntax_uid, reading=reading)
    frame, seed = source.frame(0), file.facts.sop_instance_uid.encode()
    done = protector.protect(frame, seed=seed)
    made = protect_with(Prepared(done=done), original, reading)
    shell = _shell(source, original.data, frame)
    around = _packed_shell(shell) if shell is not None else 0
    lossless = len(pack_image(frame.stored).data)
    whole = len(pack_bytes(original.data).data)
    return Sizes(
        kind=kind,
        file=file.short_name,
        raw=frame.stored.size * (1 if source.bits_stored <= BYTE else 2),
        lossless=lossless,
        sealed=whole if shell is None else min(whole, around + lossless),
        keys={
            name: around + _packed_key(_key(frame, done, delta))
            for name, delta in _deltas(protector, frame, seed, done).items()
        },
        custody=made.record.custody_name,
        record=made.record_bytes,
        alpha=done.key.alpha,
        misled=done.report.success,
    )


def _as_configured(file: FoundFile) -> tuple[Protector, Reading]:
    """Protector and reading that the default settings choose for an image."""
    protectors = Protectors(Protection())
    with lenient():
        dataset = dcmread(BytesIO(file.octets()), stop_before_pixels=True)
        attributes = attributes_of(dataset, NoAssociation(), protectors.keywords)
    return protectors.choose(attributes), protectors.reading(attributes)


def _deltas(
    protector: Protector, frame: Frame, seed: bytes, done: ProtectedFrame
) -> dict[str, NDArray[np.int8]]:
    """δ of every kind, each for the same frame."""
    params = replace(protector.params.delta, resolution="native")
    native = protector.variant(delta=params)
    return {
        NO_DELTA: np.zeros_like(done.key.delta),
        GRID: done.key.delta,
        NOISE: noise(seed, frame),
        NATIVE: native.prepare(frame, seed=seed).delta,
    }


def _key(frame: Frame, done: ProtectedFrame, delta: NDArray[np.int8]) -> FrameKey:
    """Key of the frame under the mark that was found and another δ."""
    found = done.key
    mark = Mark(
        x=found.x, y=found.y, alpha=found.alpha, sit=found.sit, patch=found.patch
    )
    stored = add_mark(apply_delta(frame, delta), frame, mark)
    return make_key(frame, stored, mark, delta=delta, logo_sha256=found.logo_sha256)


def _packed_key(key: FrameKey) -> int:
    planes = (key.patch, key.delta, key.residual)
    return sum(len(pack_array(plane).data) for plane in planes)


def _shell(source: Source, data_set: bytes, frame: Frame) -> Shell | None:
    """Octets around native pixels; None where the pixels came compressed."""
    if source.native is None:
        return None
    bounds = source.native.start, source.native.end
    return take_shell(data_set, bounds, source.native.layout, [frame.stored])


def _packed_shell(shell: Shell) -> int:
    parts = (shell.prefix, shell.suffix, shell.correction)
    return sum(len(pack_bytes(part).data) for part in parts)


def page(found: Sequence[Sizes]) -> str:
    """Write the table and what it says as Markdown."""
    kinds = list(found[0].keys)
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}."
    )
    headings = [
        "image",
        "file",
        "raw octets",
        "α",
        "lossless original",
        "sealed original",
        *(f"key, {kind}" for kind in kinds),
        "`auto`",
        "chosen",
    ]
    lines = [
        "# Key sizes",
        "",
        INTRODUCTION,
        "",
        _row(headings),
        "|" + "---|" * len(headings),
        *(_row(_cells(one, kinds)) for one in found),
        _row(_means(found, kinds)),
        "",
        *_said(found),
        "",
        machine,
    ]
    return "\n".join(lines) + "\n"


def _cells(one: Sizes, kinds: Sequence[str]) -> list[str]:
    shares = [
        one.lossless,
        one.sealed,
        *(one.keys[kind] for kind in kinds),
        one.record,
    ]
    return [
        one.kind,
        f"`{one.file}`",
        f"{one.raw:,}",
        f"{one.alpha / 255:.2f}",
        *(f"{one.share(octets):.1f}" for octets in shares),
        one.custody,
    ]


def _means(found: Sequence[Sizes], kinds: Sequence[str]) -> list[str]:
    columns = [
        [one.share(one.lossless) for one in found],
        [one.share(one.sealed) for one in found],
        *(_shares(found, kind) for kind in kinds),
        [one.share(one.record) for one in found],
    ]
    return ["mean", "", "", "", *(f"{np.mean(c):.1f}" for c in columns), ""]


def _shares(found: Sequence[Sizes], kind: str) -> list[float]:
    return [one.share(one.keys[kind]) for one in found]


def _said(found: Sequence[Sizes]) -> list[str]:
    """Hold the promises of the table against it, in sentences."""
    mean = float(np.mean(_shares(found, GRID)))
    kept = [one for one in found if one.record > one.sealed + HEADER]
    keys = sum(one.custody == "key" for one in found)
    verdict = "at most" if mean <= MEAN_BOUND else "**above**"
    bound = (
        f"- Mean size of a key with grid δ: {mean:.1f} % of the raw pixel octets "
        f"({verdict} {MEAN_BOUND:.0f} %)."
    )
    never = (
        "- The record that `auto` keeps is larger than the sealed original in "
        f"{len(kept)} of {len(found)} images; it keeps the key in {keys}."
    )
    smaller = sum(one.keys[NATIVE] < one.sealed for one in found)
    native = (
        f"- δ at native resolution: mean {np.mean(_shares(found, NATIVE)):.1f} %; "
        f"smaller than the sealed original in {smaller} of {len(found)} images."
    )
    return [bound, never, native]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the page; printed where absent")
    parser.add_argument("--only", default="", help="files whose name holds this text")
    chosen = parser.parse_args(arguments)
    installed = {file.short_name: file for file in find_corpus()}
    found = []
    for kind, name in FILES.items():
        if name not in installed:
            raise SystemExit(f"no {name}: pip install pydicom-data deid-data")
        if chosen.only in name:
            found.append(measure(kind, installed[name]))
            print(f"{name}: {found[-1].share(found[-1].keys[GRID]):.1f} %", flush=True)
    if chosen.out is None:
        print(page(found))
    else:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(page(found), "utf-8")


if __name__ == "__main__":
    main()
