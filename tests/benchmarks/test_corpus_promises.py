"""A corpus run names every promise that did not hold, in words and in its page."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.corpus.find import Facts, FoundFile
from benchmarks.corpus.ledger import Made, Received
from benchmarks.corpus.node import Arrived
from benchmarks.corpus.page import write_page
from benchmarks.corpus.passage import Passage
from benchmarks.corpus.rounds import RoundResult, keep_round, kept_round
from benchmarks.corpus.rows import Row, strangers
from benchmarks.corpus.run import Result, read_result, write_result
from benchmarks.corpus.viewer import Comparison

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = Row(
    file="package/ct.dcm",
    also=(),
    modality="CT",
    sop_class="CT Image Storage",
    transfer_syntax="Explicit VR Little Endian",
    bits_allocated=16,
    bits_stored=12,
    signed=True,
    photometric="MONOCHROME2",
    frames=1,
    rows=64,
    columns=64,
    size=9000,
    round=1,
    outcome="protected",
    expected="protected",
    because="pydicom decodes every frame",
    right=True,
    original="originals/1.dcm",
    protected=("rounds/01/outside/1.dcm",),
    output_class="Secondary Capture Image Storage",
    objects=1,
    recovered=True,
    custody="key",
    record_octets=500,
    raw_octets=8192,
    alpha=128,
    misled=1,
    frames_reported=1,
    seconds=2.0,
)

FACTS: dict[str, Any] = {
    "files": 1,
    "duplicates": 0,
    "quick": True,
    "jobs": 1,
    "seconds": 60.0,
    "machine": "a machine",
}

BROKEN: dict[str, Callable[[Row], Row]] = {
    "expected protected": lambda row: replace(
        row,
        outcome="held",
        reason="undecodable",
        message="the stream is cut off",
        right=False,
        protected=(),
    ),
    "octet for octet": lambda row: replace(row, recovered=False),
    "0 of 1 objects": lambda row: replace(row, protected=()),
    "1 of 3 objects": lambda row: replace(row, objects=3),
    "Missing attribute": lambda row: replace(row, dciodvfy=("Missing attribute",)),
    "dcm2pnm": lambda row: replace(row, dcmtk=("dcm2pnm: exit status 1",)),
    "gdcmraw": lambda row: replace(row, gdcm=("gdcmraw: other octets",)),
    "an object of it arrived": lambda row: replace(
        row, outcome="held", reason="too-small", message="8x8 pixels", right=True
    ),
    "held failed: no fault": lambda row: replace(
        row, outcome="held", reason="failed", message="a sentence", protected=()
    ),
    "held unreadable: no fault": lambda row: replace(
        row, outcome="held", reason="unreadable", message="KeyError at a.py:7"
    ),
    "refused C000: no fault": lambda row: replace(
        row, outcome="refused", reason="C000", protected=(), recovered=None
    ),
    "unsettled in no index": lambda row: replace(
        row, outcome="unsettled", reason="in no index", protected=(), recovered=None
    ),
}


def result(row: Row, *strays: str) -> Result:
    return Result(rows=[row], strays=list(strays), facts=FACTS)


def test_nothing_is_broken_when_all_went_well(tmp_path: Path) -> None:
    assert result(GOOD).broken == []
    write_page(result(GOOD), None, tmp_path / "page.md")
    assert "Every promise held" in (tmp_path / "page.md").read_text("utf-8")


@pytest.mark.parametrize("promise", BROKEN)
def test_each_broken_promise_is_named(promise: str, tmp_path: Path) -> None:
    found = result(BROKEN[promise](GOOD))
    assert any(promise in said for said in found.broken)
    write_page(found, None, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert promise in page
    assert "Every promise held" not in page


def test_a_stray_object_breaks_the_run() -> None:
    assert result(GOOD, "2.25.1 arrived outside, in no index").broken


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write_result(result(GOOD), tmp_path)
    assert read_result(tmp_path).rows == [GOOD]


def test_a_finished_round_is_taken_up_only_for_the_very_same_files(
    tmp_path: Path,
) -> None:
    file = FoundFile(name="package/ct.dcm", path=tmp_path, sha256="1")
    found = RoundResult(rows=[GOOD], strays=["stray"])
    keep_round(found, [file], tmp_path, how="quick")
    assert kept_round([file], tmp_path, how="quick") == found
    assert kept_round([file], tmp_path, how="full") is None
    assert kept_round([replace(file, sha256="2")], tmp_path, how="quick") is None
    assert kept_round([file], tmp_path / "other", how="quick") is None


def test_the_page_tells_of_a_viewer_that_shows_otherwise(tmp_path: Path) -> None:
    compared = Comparison(
        file=GOOD.file,
        object_path=GOOD.protected[0],
        sop_class=GOOD.output_class,
        bits_stored=12,
        photometric="MONOCHROME2",
        frames=1,
        windows=1,
        pixels=4096,
        largest=3,
        exact=4000,
        within=4090,
    )
    assert not compared.holds
    write_page(result(GOOD), [compared], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert "6 of 4096 pixels beyond ±1" in page
    assert "0 of 1 grey objects" in page


def arrived(directory: Path, uid: str, data_set: bytes) -> Arrived:
    path = directory / f"{uid}.dcm"
    path.write_bytes(b"head" + data_set)
    return Arrived(
        sop_instance_uid=uid,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=path,
        head_octets=4,
    )


def test_originals_unknown_and_doubled_objects_outside_are_strays(
    tmp_path: Path,
) -> None:
    original = tmp_path / "original.dcm"
    original.write_bytes(b"data set")
    file = FoundFile(
        name="package/original.dcm",
        path=original,
        sha256=arrived(tmp_path, "1.2", b"data set").sha256(),
        facts=Facts(sop_instance_uid="1.2"),
    )
    made = Made(
        sop_instance_uid="2.25.1", sop_class_uid="", treatment="", part=0, report={}
    )
    received = Received(
        sop_instance_uid="1.2", state="protected", reason="", message="", made=(made,)
    )
    good = arrived(tmp_path, "2.25.1", b"other")
    passage = Passage(
        files=[file],
        statuses=[0],
        received={"1.2": received},
        outside=[good],
        returned=[],
        settled=True,
    )
    assert strangers(passage) == []
    twice = strangers(replace(passage, outside=[good, good]))
    assert twice == ["2.25.1 arrived outside 2 times"]
    unknown = arrived(tmp_path, "2.25.9", b"strange")
    assert strangers(replace(passage, outside=[unknown]))
    leaked = strangers(
        replace(passage, outside=[arrived(tmp_path, "2.25.1", b"data set")])
    )
    assert leaked == ["2.25.1: an original arrived outside"]
