"""Looks for what names a patient, or is a picture, in every octet of files.

What it can find is what a test has shown it to find: run it on a clear copy too.
"""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import zstandard
from pydicom import Dataset
from pydicom.uid import UID

from gateway.errors import InvalidObject
from gateway.store.part10 import read_head

IDENTIFYING = frozenset(
    {"PatientName", "PatientID", "PatientBirthDate", "OtherPatientIDs"}
    | {"OtherPatientNames", "PatientAddress", "PatientComments", "AccessionNumber"}
    | {"ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"}
    | {"NameOfPhysiciansReadingStudy", "StudyID", "StudyDescription"}
    | {"InstitutionName", "PersonName", "IssuerOfPatientID", "ContentCreatorName"}
)
SHORTEST_VALUE = 4
SURE_FROM = 6
"""Octets; fewer are met by chance in megabytes of ciphertext, and are looked for
only where a file is not ciphertext."""

RUN = 64
RUNS_EACH = 24
LEAST_DISTINCT = 20
"""Octet values of a run: of fewer it is background, which is anywhere."""

LARGEST_LAYER = 64 << 20
DEEPEST = 3
BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
HEX = re.compile(rb"(?:[0-9a-f]{2}){16,}|(?:[0-9A-F]{2}){16,}")
PACKED = re.compile(
    rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08|\x28\xb5\x2f\xfd|BZh[1-9]|\xfd7zXZ\x00"
)


@dataclass(frozen=True)
class Needle:
    """What is looked for; ``label`` says what it is without quoting it."""

    label: str
    octets: bytes


def texts_of(dataset: Dataset, name: str) -> Iterator[Needle]:
    """Every identifying value of a data set, in the forms it may lie around in."""
    for element in dataset.iterall():
        if element.keyword not in IDENTIFYING or element.VR == "SQ":
            continue
        values = element.value if element.VM > 1 else [element.value]
        for value in values:
            label = f"{name} {element.keyword}"
            text = str(value or "")
            names = re.split(r"[\^=]", text) if element.VR == "PN" else []
            for part in {part.strip() for part in (text, *names)}:
                yield from text_needles(part, label)
            sent = getattr(value, "original_string", b"")  # in its own character set
            if isinstance(sent, bytes) and not _is_plain(sent, text):
                yield Needle(label, sent)


def _is_plain(sent: bytes, text: str) -> bool:
    return len(sent) < SHORTEST_VALUE or sent.decode("latin-1") == text


def text_needles(value: str, label: str) -> Iterator[Needle]:
    """A value as octets; none where it is too short to say anything.

    A few digits stand in every digest and time, so of those it takes more.
    """
    digits = re.fullmatch(r"[0-9a-fA-F]*", value)
    if len(value) < (SURE_FROM if digits else SHORTEST_VALUE):
        return
    for codec in CODECS:
        try:
            encoded = value.encode(codec)
        except UnicodeEncodeError:
            continue
        yield Needle(label, encoded)
        yield from _wrapped(label, encoded)
    yield Needle(label, json.dumps(value)[1:-1].encode())
    yield Needle(label, quote(value).encode())


CODECS = (
    "utf-8",
    "utf-16-le",
    "utf-16-be",
    "latin-1",
    "iso8859-5",
    "iso8859-7",
    "gb18030",
    "shift_jis",
    "iso2022_jp",
    "euc_kr",
)


def _wrapped(label: str, octets: bytes) -> Iterator[Needle]:
    """Its hex, and its base64 at each of three alignments, without the edges."""
    yield Needle(label, octets.hex().encode())
    yield Needle(label, octets.hex().upper().encode())
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + octets)
        inner = whole[-(-shift * 8 // 6) : (shift + len(octets)) * 8 // 6]
        if len(inner) >= SURE_FROM:
            yield Needle(label, inner)


def pixels_of(value: bytes, label: str) -> list[Needle]:
    """Runs of a pixel value, as they are and with octets swapped in pairs."""
    runs: list[bytes] = []
    step = max(1, (len(value) - RUN) // (8 * RUNS_EACH))
    for start in range(0, max(0, len(value) - RUN), step):
        run = value[start - start % 2 : start - start % 2 + RUN]
        if len(set(run)) >= LEAST_DISTINCT:
            runs.append(run)
    chosen = runs[:: max(1, len(runs) // RUNS_EACH)]
    swapped = [np.frombuffer(run, "<u2").byteswap().tobytes() for run in chosen]
    wrapped = [n for run in chosen for n in _wrapped(label, run)]
    return [Needle(label, run) for run in (*chosen, *swapped)] + wrapped


@dataclass
class Scanner:
    """Finds needles in files, in what is packed in them, and in their names."""

    needles: Iterable[Needle]
    _long: dict[bytes, list[Needle]] = field(default_factory=dict)
    _short: list[Needle] = field(default_factory=list)

    def __post_init__(self) -> None:
        for needle in set(self.needles):
            if len(needle.octets) < SHORTEST_VALUE:
                raise ValueError(f"{needle.label}: too short to look for")
            if len(needle.octets) >= 8:
                self._long.setdefault(needle.octets[:8], []).append(needle)
            else:
                self._short.append(needle)
        starts = sorted(int.from_bytes(key, "little") for key in self._long)
        self._starts = np.array(starts, np.uint64)

    def tree(self, root: Path) -> dict[str, set[str]]:
        """Labels of what is found, by file below a directory."""
        found = {}
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            name = path.relative_to(root).as_posix()
            labels = self.octets(path.read_bytes()) | self.octets(name.encode())
            if labels:
                found[name] = labels
        return found

    def octets(self, data: bytes) -> set[str]:
        """Labels of what is found in octets and all layers below them."""
        return {label for layer in layers(data) for label in self._plain(layer)}

    def _plain(self, data: bytes) -> set[str]:
        found = {n.label for n in self._at_starts(data)}
        for needle in self._short:
            sure = len(needle.octets) >= SURE_FROM or not is_ciphertext(data)
            if sure and needle.octets in data:
                found.add(needle.label)
        return found

    def _at_starts(self, data: bytes) -> Iterator[Needle]:
        """Look at all places at once: at most a few have a needle's first octets."""
        if not self._starts.size:
            return
        for shift in range(min(8, max(0, len(data) - 7))):
            words = np.frombuffer(data, "<u8", (len(data) - shift) // 8, shift)
            place = np.searchsorted(self._starts, words)
            place[place == self._starts.size] = 0
            for index in np.flatnonzero(self._starts[place] == words):
                at = int(index) * 8 + shift
                for needle in self._long[data[at : at + 8]]:
                    if data.startswith(needle.octets, at):
                        yield needle


def is_ciphertext(data: bytes) -> bool:
    """Whether octets do not compress: sealed, or packed already."""
    sample = data[: 1 << 16]
    return len(zlib.compress(sample, 1)) > 0.97 * len(sample) and len(sample) > 256


def layers(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """Octets, and whatever in them unpacks."""
    yield data
    if depth == DEEPEST:
        return
    for inner in _unpacked(data):
        yield from layers(inner, depth + 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    for match in PACKED.finditer(data):
        inner = _inflated(data[match.start() :])
        if inner:
            yield inner
    for place in (m.start() for m in re.finditer(b"DICM", data)):
        inner = _deflated_data_set(data[max(0, place - 128) :])
        if inner:
            yield inner
    for match in BASE64.finditer(data):
        run = match.group().rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):  # other text may stand right before it
            whole = run[start : len(run) - ((len(run) - start) % 4 == 1)]
            yield base64.b64decode(whole + b"=" * (-len(whole) % 4))
    for match in HEX.finditer(data):
        yield bytes.fromhex(match.group().decode())


def _inflated(data: bytes) -> bytes:
    try:
        if data[:1] == b"\x78":
            return zlib.decompressobj().decompress(data, LARGEST_LAYER)
        if data[:2] == b"\x1f\x8b":
            return zlib.decompressobj(31).decompress(data, LARGEST_LAYER)
        if data[:4] == b"\x28\xb5\x2f\xfd":
            reader = zstandard.ZstdDecompressor().stream_reader(BytesIO(data))
            return reader.read(LARGEST_LAYER)
        if data[:3] == b"BZh":
            return bz2.BZ2Decompressor().decompress(data, LARGEST_LAYER)
        return lzma.LZMADecompressor().decompress(data, LARGEST_LAYER)
    except (zlib.error, zstandard.ZstdError, OSError, lzma.LZMAError, EOFError):
        return b""


def _deflated_data_set(part10: bytes) -> bytes:
    """A data set in the deflated syntax, inflated (PS3.5 A.5)."""
    stream = BytesIO(part10)
    try:
        if not UID(read_head(stream).transfer_syntax_uid).is_deflated:
            return b""
        return zlib.decompressobj(-15).decompress(stream.read(), LARGEST_LAYER)
    except (InvalidObject, ValueError, zlib.error):
        return b""
