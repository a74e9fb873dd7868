"""Originals over HTTPS: exactly what a grant says, byte for byte, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from config.schema import Grant
from gateway.store.part10 import read_head
from gateway.store.rows import Protected
from tests.gateway.pki_cases import Pki
from tests.gateway.scp import example
from tests.gateway.seeding import protect
from tests.gateway.web_cases import (
    ANY,
    Web,
    datasets,
    file_of,
    parts_of,
    serving,
    settings,
)

GRANTED, OTHER, COMPRESSED = "CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm"
GRANT = {
    "name": "ct-back",
    "nodes": ["workstation"],
    "when": 'PatientName.startsWith("CompressedSamples^CT")',
}


@pytest.fixture
def web(tmp_path: Path, pki: Pki) -> Iterator[Web]:
    with serving(settings(tmp_path, pki, grants=[GRANT]), pki) as running:
        for name in (GRANTED, OTHER):
            instance = running.receive(example(name))
            protect(instance, running.store, running.index, running.vault)
        running.receive(example(COMPRESSED))
        yield running


def made(web: Web, name: str) -> Protected:
    instance = web.index.instance(example(name).sop_instance_uid)
    assert instance is not None
    row = web.index.protected_of(instance.id)
    assert row is not None
    return row


def study(name: str) -> str:
    found = dcmread(BytesIO(file_of(example(name))), stop_before_pixels=True)
    return f"/originals/studies/{found.StudyInstanceUID}"


def data_set_of(part10: bytes) -> bytes:
    stream = BytesIO(part10)
    read_head(stream)
    return stream.read()


def test_what_is_granted_is_listed_and_nothing_else(web: Web) -> None:
    with web.client(web.pki.workstation) as client:
        (found,) = datasets(client.get("/originals/studies"))
        for level in ("series", "instances"):
            assert len(datasets(client.get(f"/originals/{level}"))) == 1
        other = client.get(f"{study(OTHER)}/instances")
    assert study(GRANTED).endswith(found.StudyInstanceUID)
    assert str(found.PatientName).startswith("CompressedSamples^CT")
    assert other.status_code == 204


def test_an_original_comes_back_byte_for_byte(web: Web) -> None:
    item = example(GRANTED)
    with web.client(web.pki.workstation) as client:
        answer = client.get(study(GRANTED), headers={"Accept": ANY})
    assert answer.status_code == 200
    (part,) = parts_of(answer)
    assert data_set_of(part) == item.data
    assert dcmread(BytesIO(part)).SOPInstanceUID == item.sop_instance_uid
    assert web.audited("get", "success")[-1]["instances"] == 1
    assert web.audited("get-end", "success")[-1]["completed"] == 1


def test_an_original_is_found_by_the_protected_uid(web: Web) -> None:
    row = made(web, GRANTED)
    path = (
        f"/originals/studies/{row.study_instance_uid}"
        f"/series/{row.series_instance_uid}/instances/{row.sop_instance_uid}"
    )
    with web.client(web.pki.workstation) as client:
        answer = client.get(path, headers={"Accept": "application/dicom"})
    assert data_set_of(answer.content) == example(GRANTED).data


def test_who_has_no_grant_cannot_tell_what_is_there(web: Web) -> None:
    with web.client(web.pki.workstation) as client:
        there = client.get(study(OTHER))
        nowhere = client.get("/originals/studies/1.2.3")
        metadata = client.get(f"{study(OTHER)}/metadata")
    assert (there.status_code, there.text) == (nowhere.status_code, nowhere.text)
    assert (metadata.status_code, metadata.text) == (404, nowhere.text)
    assert [line["outside"] for line in web.audited("get", "refused")] == [1, 0, 1]


def test_the_two_roots_never_mix(web: Web) -> None:
    original = example(GRANTED)
    protected = made(web, GRANTED)
    with web.client(web.pki.archive) as client:
        listed = client.get("/protected/instances").text
        assert protected.sop_instance_uid in listed
        assert original.sop_instance_uid not in listed
        by_original = client.get(
            f"/protected/studies/1.2/series/1.2/instances/{original.sop_instance_uid}"
        )
        assert by_original.status_code == 404
        assert client.get("/originals/studies").status_code == 403
    with web.client(web.pki.workstation) as client:
        listed = client.get("/originals/instances").text
        assert original.sop_instance_uid in listed
        assert protected.sop_instance_uid not in listed
        assert client.get("/protected/studies").status_code == 403


def test_after_a_revocation_nothing_comes_on_an_open_connection(web: Web) -> None:
    with web.client(web.pki.workstation) as client:
        assert client.get(study(GRANTED)).status_code == 200
        web.access.revoke_grant("ct-back", "officer", "left the project")
        assert client.get(study(GRANTED)).status_code == 404
        assert client.get(f"{study(GRANTED)}/metadata").status_code == 404
        assert client.get("/originals/studies").status_code == 204


def test_many_originals_need_two_people(tmp_path: Path, pki: Pki) -> None:
    site = settings(
        tmp_path,
        pki,
        grants=[GRANT | {"when": "true"}],
        recovery={"two_person_above": 1},
    )
    with serving(site, pki) as web:
        for name in (GRANTED, OTHER):
            web.receive(example(name))
        with web.client(pki.workstation) as client:
            assert client.get(study(GRANTED)).status_code == 200
            refused = client.get(study(OTHER))
            described = client.get(f"{study(OTHER)}/metadata")
        assert (refused.status_code, described.status_code) == (403, 403)
        (asked,) = web.access.requests()[0]
        assert asked.id in refused.text
        assert web.audited("approval-needed", "refused")[0]["node"] == "workstation"


def test_an_original_that_changed_on_the_disk_does_not_leave(web: Web) -> None:
    row = web.index.instance(example(COMPRESSED).sop_instance_uid)
    assert row is not None
    path = web.store.path_of(row.path)
    octets = bytearray(path.read_bytes())
    octets[-30] ^= 1
    path.write_bytes(octets)
    web.access.add_grant(_all(), "officer")
    with web.client(web.pki.workstation) as client:
        answer = client.get(study(COMPRESSED))
    assert answer.status_code == 500
    assert row.sop_instance_uid in answer.text
    assert web.audited("recover", "failure")


def test_a_compressed_original_is_asked_for_as_it_is(web: Web) -> None:
    web.access.add_grant(_all(), "officer")
    item = example(COMPRESSED)
    with web.client(web.pki.workstation) as client:
        plain = ANY.replace("*", "1.2.840.10008.1.2.1")
        assert (
            client.get(study(COMPRESSED), headers={"Accept": plain}).status_code == 406
        )
        own = ANY.replace("*", item.transfer_syntax_uid)
        answer = client.get(study(COMPRESSED), headers={"Accept": own})
    assert [data_set_of(part) for part in parts_of(answer)] == [item.data]


def _all() -> Grant:
    return Grant(name="all", nodes=("workstation",), when="true")
