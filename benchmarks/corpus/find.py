"""The DICOM files that installed packages ship, found on disk and told apart."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from gateway.dicom.lenient import lenient, number, text

PACKAGES: Final = {
    "pydicom": "pydicom",
    "pydicom-data": "data_store",
    "deid-data": "deid_data",
    "pynetdicom": "pynetdicom",
    "nibabel": "nibabel",
}
"""Package by the name pip knows and by the one Python imports."""

PREAMBLE: Final = 128
PREFIX: Final = b"DICM"  # PS3.10 7.1
GZIP: Final = b"\x1f\x8b"
CODE: Final = frozenset({".py", ".pyc", ".pyi", ".so"})
BARE: Final = (b"\x08\x00", b"\x00\x08")
"""First octets of data sets without a head: group 0008 in either byte order."""


class NoCorpus(Exception):
    """None of the packages that ship DICOM files is installed."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What pydicom reads of an object; empty or 0 where it says nothing.

    ``frames``, ``rows``, ``columns``, ``samples`` and bits are 0 without pixels.
    """

    modality: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    photometric: str = ""
    bits_allocated: int = 0
    bits_stored: int = 0
    signed: bool = False
    frames: int = 0
    rows: int = 0
    columns: int = 0
    samples: int = 0

    @property
    def raw_octets(self) -> int:
        """Octets of all frames uncompressed."""
        pixels = self.rows * self.columns * self.samples * self.frames
        return pixels * self.bits_allocated // 8


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """One file that holds an object, and how the object is told apart.

    Attributes
    ----------
    name
        Package and path; ``!`` separates the member of an archive.
    also
        Where else the same object lies.
    path, member
        The file, and the member of a ZIP archive or ''.
    transfer_syntax_uid
        Of the data set; '' where neither the head nor its octets tell.
    offset
        Where the data set starts in the file.
    sha256
        Of the data set.
    """

    name: str
    also: tuple[str, ...] = ()
    path: Path = field(repr=False)
    member: str = ""
    transfer_syntax_uid: str = ""
    offset: int = 0
    size: int = 0
    sha256: str = ""
    facts: Facts = field(default_factory=Facts)

    def octets(self) -> bytes:
        """Read the whole file, unpacked."""
        return _octets(self.path, self.member)

    def data_set(self) -> bytes:
        """Read the data set as it lies in the file."""
        return self.octets()[self.offset :]

    @property
    def short_name(self) -> str:
        """File name without folders."""
        return self.name.rsplit("/", 1)[-1]


def find_corpus(packages: Sequence[str] = tuple(PACKAGES)) -> list[FoundFile]:
    """Every distinct object of the packages, in order of name.

    Parameters
    ----------
    packages
        Names of `PACKAGES`; those that are not installed have no files.

    Raises
    ------
    NoCorpus
        None of them is installed.
    """
    found: dict[tuple[str, str, str], FoundFile] = {}
    for package in packages:
        for root, path in _files_of(PACKAGES[package]):
            name = f"{package}/{path.relative_to(root).as_posix()}"
            for member, octets in _unpacked(path):
                whole = f"{name}!{member}" if member else name
                one = read_file(whole, path, member, octets)
                key = one.facts.sop_instance_uid, one.sha256, one.transfer_syntax_uid
                first = found.get(key)
                found[key] = (
                    one
                    if first is None
                    else replace(first, also=(*first.also, one.name))
                )
    if not found:
        raise NoCorpus(f"install one of {', '.join(packages)}: pip install -e .[dev]")
    return sorted(found.values(), key=lambda one: one.name)


def read_file(name: str, path: Path, member: str, octets: bytes) -> FoundFile:
    """Read what tells an object apart; never fails on what is broken."""
    offset, meta = _head(octets)
    dataset = _attributes(octets)
    syntax = text(meta, "TransferSyntaxUID") or _guessed_syntax(dataset)
    body = octets[offset:]
    return FoundFile(
        name=name,
        path=path,
        member=member,
        transfer_syntax_uid=syntax,
        offset=offset,
        size=len(octets),
        sha256=hashlib.sha256(body).hexdigest(),
        facts=_facts(dataset, meta),
    )


def _files_of(module: str) -> Iterator[tuple[Path, Path]]:
    """Folder of a module and the files below it that are no code."""
    spec = find_spec(module)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(root).rglob("*")):
            if path.is_file() and path.suffix not in CODE:
                yield Path(root), path


def _unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    """Member and octets of every object in a file; '' where it is no archive."""
    members = [""]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    for member in members:
        octets = _octets(path, member)
        if _holds_object(octets):
            yield member, octets


def _octets(path: Path, member: str) -> bytes:
    if member:
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)
    octets = path.read_bytes()
    if octets.startswith(GZIP):
        try:
            return gzip.decompress(octets)
        except (OSError, EOFError):
            return b""
    return octets


def _holds_object(octets: bytes) -> bool:
    """Whether octets are a Part 10 file, or a data set without a head."""
    if octets[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX:
        return True
    if not octets.startswith(BARE):
        return False
    return "SOPClassUID" in _attributes(octets)


def _head(octets: bytes) -> tuple[int, Dataset]:
    """Where the data set starts, and the file meta information before it."""
    start = PREAMBLE + len(PREFIX)
    start = start if octets[PREAMBLE:start] == PREFIX else 0
    stream = BytesIO(octets)
    stream.seek(start)
    try:
        with lenient():
            meta = read_dataset(
                stream,
                is_implicit_VR=False,
                is_little_endian=True,
                stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
            )
    except Exception:  # noqa: BLE001 - what is broken is counted, not raised
        return start, Dataset()
    return (stream.tell(), meta) if len(meta) else (start, Dataset())


def _attributes(octets: bytes) -> Dataset:
    try:
        with lenient():
            return dcmread(BytesIO(octets), stop_before_pixels=True, force=True)
    except Exception:  # noqa: BLE001 - what is broken is counted, not raised
        return Dataset()


def _guessed_syntax(dataset: Dataset) -> str:
    """Uncompressed syntax that a data set without a head is encoded in."""
    implicit, little = dataset.original_encoding
    if implicit is None or little is None or len(dataset) == 0:
        return ""
    if implicit:
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRLittleEndian if little else ExplicitVRBigEndian)


def _facts(dataset: Dataset, meta: Dataset) -> Facts:
    def whole(keyword: str) -> int:
        value = number(dataset, keyword)
        return 0 if value is None else int(value)

    with lenient():
        pixels = whole("Rows") > 0
        found: dict[str, Any] = {
            "modality": text(dataset, "Modality"),
            "sop_class_uid": text(dataset, "SOPClassUID")
            or text(meta, "MediaStorageSOPClassUID"),
            "sop_instance_uid": text(dataset, "SOPInstanceUID")
            or text(meta, "MediaStorageSOPInstanceUID"),
            "study_instance_uid": text(dataset, "StudyInstanceUID"),
            "series_instance_uid": text(dataset, "SeriesInstanceUID"),
            "photometric": text(dataset, "PhotometricInterpretation"),
            "bits_allocated": whole("BitsAllocated"),
            "bits_stored": whole("BitsStored"),
            "signed": whole("PixelRepresentation") == 1,
            "frames": max(1, whole("NumberOfFrames")) if pixels else 0,
            "rows": whole("Rows"),
            "columns": whole("Columns"),
            "samples": whole("SamplesPerPixel"),
        }
    return Facts(**found)


def spread(files: Sequence[FoundFile], limit: int) -> list[FoundFile]:
    """Choose few files of many kinds, small ones first, for a short run."""
    kinds: defaultdict[tuple[object, ...], list[FoundFile]] = defaultdict(list)
    for file in sorted(files, key=lambda one: (one.size, one.name)):
        facts = file.facts
        kinds[facts.modality, facts.photometric, facts.bits_stored].append(file)
    queues = sorted(kinds.values(), key=lambda queue: -len(queue))
    chosen: list[FoundFile] = []
    depth = 0
    while len(chosen) < limit and any(depth < len(queue) for queue in queues):
        chosen += [queue[depth] for queue in queues if depth < len(queue)]
        depth += 1
    return sorted(chosen[:limit], key=lambda one: one.name)


def name_of(uid: str) -> str:
    """Name of a UID of the standard, or the UID."""
    return UID(uid).name if uid else ""
