"""What rules ask for beside the mark, through a whole gateway and back.

A trial office gets de-identified images and the key object that points at them; a
tele-reader gets images whose key travels with them, and no key objects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread

from gateway.demo.cases import case_of
from gateway.demo.nodes import StorageNode, move_study
from gateway.demo.site import OUTSIDE, RECOVERY, WORKSTATION
from tests.endtoend.support import EVERYTHING, Gateway, Ports, data_set_of
from tests.gateway.follow_cases import as_part10, ct_image, key_object
from tests.gateway.recipient_cases import key_pem, pem, recipient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.demo.cases import Case
    from gateway.demo.nodes import Arrival

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RULES = """
[[destinations]]
name = "tele"
ae_title = "TELE"
host = "127.0.0.1"
port = {tele_port}
plain = true
recipients = ["anna.crt"]

[[deidentification]]
name = "trial"

[routing]
match = "all"

[[routing.rules]]
name = "trial"
when = 'true'
destinations = ["outside"]
protect = true
deidentify = "trial"
non_images = "pass"

[[routing.rules]]
name = "tele"
when = 'true'
destinations = ["tele"]
protect = true
custody = "key"
non_images = "drop"
"""


@dataclass(frozen=True)
class Sent:
    """What arrived where, and what came back."""

    gateway: Gateway
    image: Case
    document: Case
    trial: list[Arrival]
    tele: list[Arrival]
    returned: list[Arrival]
    states: dict[str, int]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    directory = tmp_path_factory.mktemp("rules")
    anna = recipient("anna")
    (directory / "anna.crt").write_bytes(pem(anna.certificate))
    (directory / "anna.pem").write_bytes(key_pem(anna.private_key))
    pixels = ct_image()
    # The document first: it has to wait for the image it points at.
    document = case_of("key object", as_part10(key_object([pixels])))
    image = case_of("CT", as_part10(pixels))
    with (
        StorageNode(OUTSIDE) as outside,
        StorageNode("TELE") as tele,
        StorageNode(WORKSTATION) as station,
        Gateway(
            directory,
            Ports(outside=outside.port, workstation=station.port),
            rules=RULES.format(tele_port=tele.port),
        ) as gateway,
    ):
        assert gateway.send([document]) == [0]
        index = gateway.index()
        gateway.wait(lambda: index.counts()["instances"].get("held", 0) == 1)
        assert index.instances_in_state("held")[0].reason == "unresolved-references"
        assert gateway.send([image]) == [0]
        gateway.wait(lambda: len(outside.arrivals) == 2 and len(tele.arrivals) == 1)
        gateway.wait(lambda: all(r.state == "delivered" for r in index.revisions()))
        moved = move_study(
            image.study_instance_uid,
            calling_ae=WORKSTATION,
            called_ae=RECOVERY,
            port=gateway.ports.recovery,
            destination=WORKSTATION,
        )
        assert moved == 0
        states = index.counts()["instances"]
        index.close()
        yield Sent(
            gateway,
            image,
            document,
            list(outside.arrivals),
            list(tele.arrivals),
            list(station.arrivals),
            states,
        )


def test_the_trial_office_learns_nobodys_name(sent: Sent) -> None:
    original = dcmread(BytesIO(sent.image.part10))
    for arrival in sent.trial:
        for case in (sent.image, sent.document):
            for uid in (
                case.sop_instance_uid,
                case.series_instance_uid,
                case.study_instance_uid,
            ):
                assert uid.encode() not in arrival.data_set
        for value in (original.PatientName, original.PatientID):
            assert str(value).encode() not in arrival.data_set
        assert dcmread(BytesIO(arrival.part10)).PatientIdentityRemoved == "YES"


def test_the_key_object_points_at_the_image_that_the_trial_office_has(
    sent: Sent,
) -> None:
    datasets = [dcmread(BytesIO(arrival.part10)) for arrival in sent.trial]
    image = next(d for d in datasets if "PixelData" in d)
    document = next(d for d in datasets if "PixelData" not in d)
    assert document.StudyInstanceUID == image.StudyInstanceUID
    assert document.PatientID == image.PatientID
    evidence = document.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == image.StudyInstanceUID
    series = evidence.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    item = series.ReferencedSOPSequence[0]
    assert item.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert item.ReferencedSOPClassUID == image.SOPClassUID


def test_the_same_image_has_an_object_for_each_treatment(sent: Sent) -> None:
    (tele,) = sent.tele
    marked = next(a for a in sent.trial if "PixelData" in dcmread(BytesIO(a.part10)))
    assert tele.sop_instance_uid != marked.sop_instance_uid
    assert (
        dcmread(BytesIO(tele.part10)).PixelData
        == dcmread(BytesIO(marked.part10)).PixelData
    )


def test_the_recipient_rebuilds_the_original_without_a_vault(
    sent: Sent, tmp_path: Path
) -> None:
    (tele,) = sent.tele
    protected = tmp_path / "sent.dcm"
    protected.write_bytes(tele.part10)
    folder = sent.gateway.config.parent
    done = sent.gateway.cli(
        *("recover", str(protected), "-o", str(tmp_path / "back"), "--json"),
        *("--key", str(folder / "anna.pem"), "--certificate", str(folder / "anna.crt")),
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    back = data_set_of((tmp_path / "back" / answer["output"]).read_bytes())
    assert back == data_set_of(sent.image.part10)


def test_the_authorised_get_everything_back_exactly(sent: Sent) -> None:
    back = {arrival.sop_instance_uid: arrival.data_set for arrival in sent.returned}
    assert back == {
        case.sop_instance_uid: data_set_of(case.part10)
        for case in (sent.image, sent.document)
    }
    assert sent.states == {"protected": 2}


def test_what_every_rule_drops_is_seen_and_not_sent(tmp_path: Path) -> None:
    dropping = EVERYTHING + 'non_images = "drop"\n'
    document = case_of("key object", as_part10(key_object([ct_image()])))
    with (
        StorageNode(OUTSIDE) as outside,
        Gateway(
            tmp_path, Ports(outside=outside.port, workstation=1), rules=dropping
        ) as gateway,
    ):
        assert gateway.send([document]) == [0]
        index = gateway.index()
        gateway.wait(lambda: index.counts()["instances"] == {"dropped": 1})
        gateway.wait(lambda: [r.state for r in index.revisions()] == ["delivered"])
        index.close()
        assert outside.arrivals == []
