"""What became of one file, from what the nodes, the index and the readers say."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.corpus.expect import HELD, PROTECTED, REFUSED, UNSENDABLE, Expectation
from benchmarks.corpus.find import FoundFile, name_of
from benchmarks.corpus.ledger import Received
from benchmarks.corpus.node import Arrived
from benchmarks.corpus.passage import SUCCESS, Passage
from benchmarks.corpus.peers import NO_CONTEXT
from benchmarks.corpus.readers import Reading, read_by_others
from gateway.store.part10 import FileMeta, encode_head

NOT_NEGOTIATED: Final = "no presentation context"
BAD_UID: Final = 0x0117  # invalid object instance (PS3.7 C.5.8)
NO_FAULT: Final = re.compile(r"(\w+( at [\w.]+:\d+)?)?")
"""What names no fault: nothing, or the kind and place of an exception."""

PASSED: Final = frozenset({"dropped"})
"""By rule."""

UNSETTLED: Final = "unsettled"
"""The gateway came to no end with it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of one file; one line of the table.

    Attributes
    ----------
    file, also
        Package and path, and where else the same object lies.
    outcome, reason, message
        ``protected``, ``held`` with its code, ``dropped``, ``refused`` with the
        status, ``unsendable`` or ``unsettled``.
    expected, because, right
        What pydicom alone made expect, and whether it came so.
    original
        The original as it was sent, a file of the run's folder.
    protected
        The objects that arrived outside, files of the run's folder, in order.
    output_class, objects
        SOP class of the protected objects, and how many the index has.
    recovered
        Whether the data set came back octet for octet; None where not stored.
    dciodvfy, dcmtk, gdcm
        Complaints of the readers over all objects.
    custody, record_octets, raw_octets
        How the original is kept, in how many octets; pixels uncompressed.
    alpha, misled, frames_reported
        α of the first frame, frames whose consensus label changed, of how many.
    seconds
        Of the engine.
    """

    file: str
    also: tuple[str, ...]
    modality: str
    sop_class: str
    transfer_syntax: str
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str
    frames: int
    rows: int
    columns: int
    size: int
    round: int
    outcome: str
    reason: str = ""
    message: str = ""
    expected: str
    because: str
    right: bool
    original: str = ""
    protected: tuple[str, ...] = ()
    output_class: str = ""
    objects: int = 0
    recovered: bool | None = None
    dciodvfy: tuple[str, ...] = ()
    dcmtk: tuple[str, ...] = ()
    gdcm: tuple[str, ...] = ()
    custody: str = ""
    record_octets: int = 0
    raw_octets: int = 0
    alpha: int = 0
    misled: int = 0
    frames_reported: int = 0
    seconds: float = 0.0

    @property
    def settled(self) -> bool:
        """Whether it ended protected, passed by rule, or with a fault named."""
        if self.outcome in {PROTECTED, UNSENDABLE, *PASSED}:
            return True
        if self.outcome not in {HELD, REFUSED} or self.reason in {"failed", "crashes"}:
            return False
        return NO_FAULT.fullmatch(self.message) is None

    @property
    def promises_broken(self) -> list[str]:
        """Everything that is not as promised, in words."""
        broken = []
        if not self.right:
            broken.append(f"{self.outcome} {self.reason}, expected {self.expected}")
        if self.recovered is False:
            broken.append("not recovered octet for octet")
        if not self.settled:
            broken.append(f"{self.outcome} {self.reason}: no fault is named")
        if self.outcome == PROTECTED:
            if self.objects == 0 or len(self.protected) != self.objects:
                arrived = len(self.protected)
                broken.append(f"{arrived} of {self.objects} objects arrived outside")
            broken += [*self.dciodvfy, *self.dcmtk, *self.gdcm]
        elif self.protected:
            broken.append("an object of it arrived outside")
        return broken


def rows_of(
    passage: Passage,
    number: int,
    expected: Mapping[str, Expectation],
    directory: Path,
) -> list[Row]:
    """Make the rows of a round.

    Parameters
    ----------
    passage
        What the round saw.
    number
        Of the round.
    expected
        By name of the file.
    directory
        The run's folder; originals of protected files are written into it.
    """
    outside = {one.sop_instance_uid: one for one in passage.outside}
    returned = {one.sop_instance_uid: one for one in passage.returned}
    rows = []
    for file, status in zip(passage.files, passage.statuses, strict=True):
        uid = file.facts.sop_instance_uid
        got = passage.received.get(uid) if status == SUCCESS else None
        fate = _fate(status, got, passage.refused.get(uid, ""))
        arrived = _arrived(got, outside)
        original = None
        if fate["outcome"] == PROTECTED:
            original = _write_original(file, directory / "originals")
        rows.append(
            Row(
                **_described(file, number),
                **fate,
                **_judged(expected[file.name], fate),
                **_made(got),
                **_read([one.path for one in arrived]),
                original=_below(original, directory) if original else "",
                protected=tuple(_below(one.path, directory) for one in arrived),
                recovered=None if got is None else _is_back(file, returned.get(uid)),
            )
        )
    return rows


def row_of_unsendable(file: FoundFile, expected: Expectation, missing: str) -> Row:
    """Row of a file that no C-STORE request can carry."""
    fate = {"outcome": UNSENDABLE, "reason": missing}
    return Row(**_described(file, 0), **fate, **_judged(expected, fate))


def strangers(passage: Passage) -> list[str]:
    """Name what arrived outside and should not have.

    Originals, objects the index knows nothing of, and objects that came twice.
    """
    known = {
        made.sop_instance_uid
        for received in passage.received.values()
        for made in received.made
    }
    originals = {file.sha256 for file in passage.files}
    counted = Counter(one.sop_instance_uid for one in passage.outside)
    said = [f"{uid} arrived outside {n} times" for uid, n in counted.items() if n > 1]
    for one in passage.outside:
        if one.sop_instance_uid not in known:
            said.append(f"{one.sop_instance_uid} arrived outside, in no index")
        if one.sha256() in originals:
            said.append(f"{one.sop_instance_uid}: an original arrived outside")
    return said


def _described(file: FoundFile, number: int) -> dict[str, Any]:
    facts = file.facts
    return {
        "file": file.name,
        "also": file.also,
        "modality": facts.modality,
        "sop_class": name_of(facts.sop_class_uid),
        "transfer_syntax": name_of(file.transfer_syntax_uid),
        "bits_allocated": facts.bits_allocated,
        "bits_stored": facts.bits_stored,
        "signed": facts.signed,
        "photometric": facts.photometric,
        "frames": facts.frames,
        "rows": facts.rows,
        "columns": facts.columns,
        "size": file.size,
        "raw_octets": facts.raw_octets,
        "round": number,
    }


def _fate(status: int, received: Received | None, said: str) -> dict[str, str]:
    if status == NO_CONTEXT:
        message = "its SOP class is none that is stored"
        return {"outcome": REFUSED, "reason": NOT_NEGOTIATED, "message": message}
    if status != SUCCESS:
        # A UID that is none is in no trail; the status is said of nothing else.
        message = said or ("SOP Instance UID is none" if status == BAD_UID else "")
        return {"outcome": REFUSED, "reason": f"{status:04X}", "message": message}
    if received is None:
        return {"outcome": UNSETTLED, "reason": "in no index"}
    outcome = UNSETTLED if received.state == "received" else received.state
    return {
        "outcome": outcome,
        "reason": received.reason,
        "message": received.message if outcome == HELD else "",
    }


def _judged(expected: Expectation, fate: Mapping[str, str]) -> dict[str, Any]:
    return {
        "expected": expected.outcome,
        "because": expected.because,
        "right": expected.agrees(fate["outcome"], fate["reason"]),
    }


def _arrived(
    received: Received | None, outside: Mapping[str, Arrived]
) -> list[Arrived]:
    """Find what came outside of a received object, in the order of its parts."""
    made = received.made if received else ()
    return [
        outside[one.sop_instance_uid] for one in made if one.sop_instance_uid in outside
    ]


def _made(received: Received | None) -> dict[str, Any]:
    """Gather what index and engine say of the objects made of one original."""
    if received is None or not received.made:
        return {}
    report: Mapping[str, Any] = next(
        (made.report for made in received.made if made.report), {}
    )
    frames: Sequence[Mapping[str, Any]] = report.get("frames", ())
    classes = dict.fromkeys(made.sop_class_uid for made in received.made)
    return {
        "output_class": ", ".join(name_of(uid) for uid in classes),
        "objects": len(received.made),
        "custody": report.get("custody", ""),
        "record_octets": report.get("record_bytes", 0),
        "alpha": frames[0].get("alpha", 0) if frames else 0,
        "misled": sum(bool(frame.get("success")) for frame in frames),
        "frames_reported": len(frames),
        "seconds": sum(sum(frame.get("seconds", {}).values()) for frame in frames),
    }


def _read(paths: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    readings = [read_by_others(path) for path in paths]

    def all_of(name: str) -> tuple[str, ...]:
        return tuple(said for reading in readings for said in getattr(reading, name))

    return {name: all_of(name) for name in Reading.__dataclass_fields__}


def _is_back(file: FoundFile, returned: Arrived | None) -> bool:
    return (
        returned is not None
        and returned.transfer_syntax_uid == file.transfer_syntax_uid
        and returned.data_set() == file.data_set()
    )


def _write_original(file: FoundFile, directory: Path) -> Path:
    """Keep an original as it was sent, for the viewer and the contact sheets."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{file.sha256[:32]}.dcm"
    head = encode_head(
        FileMeta(
            sop_class_uid=file.facts.sop_class_uid,
            sop_instance_uid=file.facts.sop_instance_uid,
            transfer_syntax_uid=file.transfer_syntax_uid,
        )
    )
    path.write_bytes(head + file.data_set())
    return path


def _below(path: Path, directory: Path) -> str:
    return path.relative_to(directory).as_posix()


def clear(directory: Path) -> None:
    """Remove what an earlier run left in the folder."""
    for name in ("originals", "rounds"):
        shutil.rmtree(directory / name, ignore_errors=True)
