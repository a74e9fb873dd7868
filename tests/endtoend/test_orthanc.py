"""The main job with Orthanc outside and as the node that retrieves."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from gateway.demo.cases import demo_cases
from gateway.demo.site import RECOVERY
from tests.endtoend.peers import free_port, orthanc
from tests.endtoend.support import Gateway, Ports
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(600)]


def values(ds: Dataset) -> dict[BaseTag, object]:
    """Values by tag, without the group lengths that Orthanc writes no more."""
    return {element.tag: element.value for element in ds if element.tag.element != 0}


def test_orthanc_receives_marked_images_and_retrieves_originals(tmp_path: Path) -> None:
    cases = [case for case in demo_cases() if case.name in {"MR head 3/10", "CT head"}]
    with (
        orthanc(tmp_path / "outside", "OUTSIDE", {}) as outside,
        orthanc(tmp_path / "inside", "ORTHANC", {}) as inside,
        Gateway(
            tmp_path,
            Ports(
                outside=outside.dicom_port,
                workstation=free_port(),
                orthanc=inside.dicom_port,
            ),
        ) as gateway,
    ):
        assert gateway.send(cases) == [0, 0]
        gateway.wait(lambda: len(outside.get("/instances")) == 2)

        port = gateway.ports.recovery
        inside.call("PUT", "/modalities/miad", [RECOVERY, "127.0.0.1", port])
        for case in cases:
            query = inside.call(
                "POST",
                "/modalities/miad/query",
                {
                    "Level": "Study",
                    "Query": {"StudyInstanceUID": case.study_instance_uid},
                },
            )
            assert len(inside.get(f"{query['Path']}/answers")) == 1
            wanted = {"TargetAet": "ORTHANC", "Synchronous": True}
            inside.call("POST", f"{query['Path']}/retrieve", wanted)
        wait_until(lambda: len(inside.get("/instances")) == 2)

        originals = {case.sop_instance_uid: case for case in cases}
        for identifier in inside.get("/instances"):
            back = dcmread(BytesIO(inside.file(f"/instances/{identifier}/file")))
            sent = dcmread(BytesIO(originals[back.SOPInstanceUID].part10))
            # Orthanc writes the data set anew, so compare values, not bytes.
            assert values(back) == values(sent)

        for identifier in outside.get("/instances"):
            tags = outside.get(f"/instances/{identifier}/simplified-tags")
            assert tags["SOPInstanceUID"] not in originals
            assert tags["ImageType"].startswith("DERIVED\\SECONDARY")
