"""The main job with DCMTK at every other end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from gateway.demo.cases import Case, demo_cases
from gateway.demo.site import GATEWAY, MODALITY, RECOVERY, WORKSTATION
from tests.endtoend.peers import dcmtk, free_port, storescp
from tests.endtoend.support import Gateway, Ports, data_set_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(600)]


def received(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.suffix != ".log"]


def write(cases: list[Case], directory: Path) -> list[Path]:
    directory.mkdir()
    paths = []
    for number, case in enumerate(cases):
        paths.append(directory / f"{number:02d}.dcm")
        paths[-1].write_bytes(case.part10)
    return paths


@dataclass(frozen=True)
class Hospital:
    """A gateway between DCMTK's tools, with three objects gone through it."""

    gateway: Gateway
    outside: Path
    move_port: int
    plain: list[Case]
    compressed: list[Case]

    @property
    def cases(self) -> list[Case]:
        return self.plain + self.compressed

    @property
    def recovery(self) -> list[str]:
        return ["-aec", RECOVERY, "127.0.0.1", str(self.gateway.ports.recovery)]


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    directory = tmp_path_factory.mktemp("hospital")
    by_name = {case.name: case for case in demo_cases()}
    plain = [by_name["MR head 1/10"], by_name["MR head 2/10"]]
    compressed = [by_name["MR shoulder, JPEG 2000"]]
    outside, move_port = directory / "outside", free_port()
    with (
        storescp(outside, "OUTSIDE") as outside_port,
        Gateway(
            directory, Ports(outside=outside_port, workstation=move_port)
        ) as gateway,
    ):
        called = ["-aec", GATEWAY, "127.0.0.1", str(gateway.ports.receiver)]
        assert dcmtk("echoscu", "-aet", MODALITY, *called).returncode == 0
        for tool, cases in (("storescu", plain), ("dcmsend", compressed)):
            files = write(cases, directory / tool)
            sent = dcmtk(tool, *called, *map(str, files))
            assert sent.returncode == 0, sent.stderr
        gateway.wait(lambda: len(received(outside)) == len(plain + compressed))
        yield Hospital(gateway, outside, move_port, plain, compressed)


def test_storescp_outside_gets_marked_objects_only(hospital: Hospital) -> None:
    originals = {case.sop_instance_uid for case in hospital.cases}
    for path in received(hospital.outside):
        protected = dcmread(path)
        assert protected.SOPInstanceUID not in originals
        assert protected.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert protected.BurnedInAnnotation == "YES"


def test_findscu_lists_originals(hospital: Hospital) -> None:
    found = dcmtk(
        "findscu",
        *("-S", "-aet", WORKSTATION, *hospital.recovery),
        *("-k", "QueryRetrieveLevel=IMAGE"),
        *("-k", f"StudyInstanceUID={hospital.plain[0].study_instance_uid}"),
        *("-k", f"SeriesInstanceUID={hospital.plain[0].series_instance_uid}"),
        *("-k", "SOPInstanceUID"),
    )
    for case in hospital.plain:
        assert case.sop_instance_uid in found.stdout + found.stderr


def test_movescu_gets_originals_bit_for_bit(hospital: Hospital, tmp_path: Path) -> None:
    for study in {case.study_instance_uid for case in hospital.cases}:
        moved = dcmtk(
            "movescu",
            *("-v", "-S", "-aet", WORKSTATION, "-aem", WORKSTATION),
            *("--port", str(hospital.move_port), "+xa", *hospital.recovery),
            *("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"),
            "--bit-preserving",  # with it, movescu heeds no output directory
            cwd=tmp_path,
        )
        assert moved.returncode == 0, moved.stderr
    index = hospital.gateway.index()
    for case in hospital.cases:
        instance = index.instance(case.sop_instance_uid)
        assert instance is not None
        stored = hospital.gateway.stored(instance.path)
        copies = [p for p in received(tmp_path) if case.sop_instance_uid in p.name]
        assert len(copies) == 1
        assert data_set_of(copies[0].read_bytes()) == data_set_of(stored)
    index.close()


def test_movescu_of_a_stranger_is_refused(hospital: Hospital, tmp_path: Path) -> None:
    refused = dcmtk(
        "movescu",
        *("-v", "-S", "-aet", "STRANGER", "-aem", "STRANGER"),
        *("--port", str(free_port()), *hospital.recovery),
        *("-k", "QueryRetrieveLevel=STUDY"),
        *("-k", f"StudyInstanceUID={hospital.plain[0].study_instance_uid}"),
        cwd=tmp_path,
    )
    assert refused.returncode != 0
    assert "Calling AE Title Not Recognized" in refused.stdout + refused.stderr
    assert received(tmp_path) == []
