"""DICOMweb on a real server: search, retrieval, storage."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread

from gateway.store.rows import Protected
from tests.gateway.pki_cases import Pki
from tests.gateway.scp import encoded, example, small
from tests.gateway.seeding import protect
from tests.gateway.stored import content_of
from tests.gateway.web_cases import (
    ANY,
    STOW,
    Web,
    datasets,
    file_of,
    parts_of,
    serving,
    settings,
    stow,
    stow_body,
)

NAMES = ("CT_small.dcm", "MR_small.dcm")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Web]:
    with serving(settings(tmp_path_factory.mktemp("web"), pki), pki) as running:
        for name in NAMES:
            instance = running.receive(example(name))
            protect(instance, running.store, running.index, running.vault)
        yield running


def made(web: Web, name: str) -> Protected:
    instance = web.index.instance(example(name).sop_instance_uid)
    assert instance is not None
    row = web.index.protected_of(instance.id)
    assert row is not None
    return row


# search


def test_studies_are_listed_with_what_the_standard_asks(web: Web) -> None:
    with web.client(web.pki.archive) as client:
        answer = client.get("/protected/studies")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    found = datasets(answer)
    assert [d.StudyInstanceUID for d in found] == sorted(
        made(web, name).study_instance_uid for name in NAMES
    )
    for dataset in found:
        assert dataset.NumberOfStudyRelatedInstances == 1
        assert dataset.RetrieveURL.endswith(
            f"/protected/studies/{dataset.StudyInstanceUID}"
        )
        assert dataset.InstanceAvailability == "ONLINE"
        assert "PatientName" in dataset


def test_keys_select_as_with_c_find(web: Web) -> None:
    row = made(web, "CT_small.dcm")
    other = made(web, "MR_small.dcm")
    name = str(row.patient_name)
    cases: list[tuple[dict[str, str], int]] = [
        ({"StudyInstanceUID": row.study_instance_uid}, 1),
        ({"0020000D": f"{row.study_instance_uid},{other.study_instance_uid}"}, 2),
        ({"PatientName": name}, 1),
        ({"PatientName": name.lower()}, 1),
        ({"PatientName": name[:3] + "*"}, 2),
        ({"PatientName": "*" + name[-3:]}, 1),
        ({"PatientName": "?" + name[1:]}, 1),
        ({"PatientName": "*"}, 2),
        ({"PatientID": "nobody"}, 0),
        ({"StudyDate": f"{row.study_date}-{row.study_date}"}, 1),
        ({"StudyDate": "19000101-19000102"}, 0),
        ({"ModalitiesInStudy": "MR"}, 1),
        ({"ConversionType": "WSD"}, 2),  # not in the index: read from the object
        ({"ConversionType": "DV"}, 0),
    ]
    with web.client(web.pki.archive) as client:
        for params, expected in cases:
            answer = client.get("/protected/studies", params=params)
            assert answer.status_code == (200 if expected else 204), params
            found = datasets(answer) if expected else []
            assert len(found) == expected, params


def test_levels_below_a_study(web: Web) -> None:
    row = made(web, "CT_small.dcm")
    study = f"/protected/studies/{row.study_instance_uid}"
    series = f"{study}/series/{row.series_instance_uid}"
    with web.client(web.pki.archive) as client:
        (one,) = datasets(client.get(f"{study}/series"))
        assert (one.Modality, one.NumberOfSeriesRelatedInstances) == ("CT", 1)
        for path in (f"{study}/instances", f"{series}/instances"):
            (one,) = datasets(client.get(path))
            assert one.SOPInstanceUID == row.sop_instance_uid
            assert (one.Rows, one.Columns, one.BitsAllocated) == (128, 128, 16)
        assert len(datasets(client.get("/protected/series"))) == 2
        assert len(datasets(client.get("/protected/instances"))) == 2


def test_further_attributes_come_when_asked_for(web: Web) -> None:
    with web.client(web.pki.archive) as client:
        plain = datasets(client.get("/protected/studies", params={"limit": "1"}))[0]
        assert "Manufacturer" not in plain
        fields = {"includefield": "Manufacturer,00081090", "limit": "1"}
        (found,) = datasets(client.get("/protected/studies", params=fields))
    assert found.Manufacturer
    assert "ManufacturerModelName" in found


def test_pages_follow_one_another(web: Web) -> None:
    seen = []
    with web.client(web.pki.archive) as client:
        for offset in ("0", "1", "2"):
            page = {"limit": "1", "offset": offset}
            answer = client.get("/protected/studies", params=page)
            assert ("more matches" in answer.headers.get("warning", "")) is (
                offset == "0"
            )
            seen.append([] if answer.status_code == 204 else datasets(answer))
    assert [len(page) for page in seen] == [1, 1, 0]
    assert seen[0][0].StudyInstanceUID < seen[1][0].StudyInstanceUID


def test_fuzzy_matching_is_declined_aloud(web: Web) -> None:
    with web.client(web.pki.archive) as client:
        answer = client.get("/protected/studies", params={"fuzzymatching": "true"})
    assert answer.status_code == 200
    assert "fuzzymatching parameter is not supported" in answer.headers["warning"]


@pytest.mark.parametrize(
    "query",
    [
        "NoSuchKeyword=1",
        "ZZZZZZZZ=1",
        "00990099=1",
        "limit=-1",
        "limit=x",
        "limit=1&limit=2",
        "offset=1e9",
        "StudyInstanceUID=1.2.x",
        "StudyInstanceUID=" + "1." * 40 + "1",
        "PatientID=a&PatientID=b",
        "PatientID=a&00100020=b",
        "PatientID.PatientName=x",
        "PatientName=%00",
        "PatientName=" + "x" * 5000,
        "&".join(f"includefield=Rows{n}" for n in range(101)),
        "A.B.C.D.E=1",
    ],
)
def test_a_query_that_cannot_be_meant_is_refused_with_a_reason(
    web: Web, query: str
) -> None:
    before = len(web.audited("query", "refused"))
    with web.client(web.pki.archive) as client:
        answer = client.get(f"/protected/studies?{query}")
    assert answer.status_code == 400
    assert 10 < len(answer.text) < 120
    assert len(web.audited("query", "refused")) == before + 1


def test_the_trail_holds_keys_and_uids_but_no_values(web: Web) -> None:
    row = made(web, "CT_small.dcm")
    params = {
        "PatientName": str(row.patient_name),
        "StudyInstanceUID": row.study_instance_uid,
    }
    with web.client(web.pki.archive) as client:
        assert client.get("/protected/studies", params=params).status_code == 200
    line = web.audited("query", "success")[-1]
    assert line["keys"] == ["PatientName", "StudyInstanceUID"]
    assert line["StudyInstanceUID"] == [row.study_instance_uid]
    assert (line["node"], line["calling_ae"]) == ("archive", "ARCHIVE")
    assert str(row.patient_name) not in web.audit.path.read_text()


# retrieval


def test_an_instance_comes_byte_for_byte(web: Web) -> None:
    for name in NAMES:
        row = made(web, name)
        stored = content_of(web.store, row.path)
        path = (
            f"/protected/studies/{row.study_instance_uid}"
            f"/series/{row.series_instance_uid}/instances/{row.sop_instance_uid}"
        )
        with web.client(web.pki.archive) as client:
            for accept in (ANY, "*/*", ANY.replace("*", row.transfer_syntax_uid)):
                answer = client.get(path, headers={"Accept": accept})
                assert answer.status_code == 200
                assert parts_of(answer) == [stored]
            one = client.get(path, headers={"Accept": "application/dicom"})
            assert one.content == stored
            assert row.transfer_syntax_uid in one.headers["content-type"]
        assert dcmread(BytesIO(stored)).SOPInstanceUID == row.sop_instance_uid
    starts = web.audited("get", "success")
    ends = web.audited("get-end", "success")
    assert len(starts) == len(ends)
    assert (starts[-1]["studies"], starts[-1]["instances"]) == (
        [row.study_instance_uid],
        1,
    )


def test_what_is_not_stored_so_is_not_sent_otherwise(web: Web) -> None:
    row = made(web, "CT_small.dcm")
    study = f"/protected/studies/{row.study_instance_uid}"
    for accept in (
        ANY.replace("*", "1.2.840.10008.1.2.4.90"),
        "image/jpeg",
        'multipart/related; type="image/jpeg"',
        "application/dicom",  # of a study: several objects
        "text/html",
    ):
        with web.client(web.pki.archive) as client:
            answer = client.get(study, headers={"Accept": accept})
        assert answer.status_code == 406, accept
    assert web.audited("get", "refused")[-1]["status"] == 406


def test_metadata_is_all_but_bulk_data(web: Web) -> None:
    row = made(web, "CT_small.dcm")
    whole = dcmread(BytesIO(content_of(web.store, row.path)))
    path = f"/protected/studies/{row.study_instance_uid}/metadata"
    with web.client(web.pki.archive) as client:
        answer = client.get(path, headers={"Accept": "application/dicom+json"})
    (found,) = datasets(answer)
    assert "PixelData" not in found
    assert "7FE0" not in "".join(key[:4] for key in json.loads(answer.content)[0])
    for keyword in ("SOPInstanceUID", "PatientID", "Rows", "PixelSpacing"):
        assert found[keyword].value == whole[keyword].value
    missing = {e.tag for e in whole} - {e.tag for e in found}
    assert all(whole[t].VR in {"OB", "OW", "UN"} for t in missing - {0x00080005})


def test_nothing_is_found_under_unknown_uids(web: Web) -> None:
    with web.client(web.pki.archive) as client:
        for path in ("studies/1.2.3", "studies/1.2.3/metadata"):
            assert client.get(f"/protected/{path}").status_code == 404
    assert web.audited("get", "refused")[-1]["status"] == 404


@pytest.mark.parametrize(
    "path",
    [
        "studies/..%2f..%2fetc%2fpasswd",
        "studies/%2e%2e",
        "studies/1.2.3%00",
        "studies/1.2.3'--",
        "studies/" + "1." * 40 + "1",
        "studies/*",
        "studies/1.2.3/series/..",
        "studies/1.2.3/instances/1.2",
        "../originals/studies",
        "studies/",
        "",
    ],
)
def test_odd_paths_lead_nowhere(web: Web, path: str) -> None:
    with web.socket(web.pki.archive) as connection:
        head = f"GET /protected/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ")[1] in {b"400", b"404"}, answer[:200]
    assert b"passwd" not in answer


def test_a_damaged_object_does_not_leave(tmp_path: Path, pki: Pki) -> None:
    with serving(settings(tmp_path, pki), pki) as web:
        instance = web.receive(example("CT_small.dcm"))
        row = protect(instance, web.store, web.index, web.vault)
        octets = bytearray(web.store.path_of(row.path).read_bytes())
        octets[-20] ^= 1
        web.store.path_of(row.path).write_bytes(octets)
        path = f"/protected/studies/{row.study_instance_uid}"
        with web.client(web.pki.archive) as client:
            answer = client.get(path, headers={"Accept": ANY})
        assert answer.status_code == 500
        assert row.sop_instance_uid in answer.text
        failure = web.audited("recover", "failure")[-1]
        assert failure["sop_instance_uid"] == row.sop_instance_uid
        assert web.audited("get-end", "failure")[-1]["failed_uids"] == [
            row.sop_instance_uid
        ]


def test_an_answer_that_breaks_off_is_seen_to(tmp_path: Path, pki: Pki) -> None:
    """The second object is damaged: the client gets an error, not half a study."""
    with serving(settings(tmp_path, pki), pki) as web:
        rows = []
        for number in (1, 2):
            item = example("CT_small.dcm")
            dataset = dcmread(BytesIO(file_of(item)))
            dataset.SOPInstanceUID = f"1.2.3.{number}"
            instance = web.receive(encoded(dataset))
            rows.append(protect(instance, web.store, web.index, web.vault))
        octets = bytearray(web.store.path_of(rows[1].path).read_bytes())
        octets[-20] ^= 1
        web.store.path_of(rows[1].path).write_bytes(octets)
        path = f"/protected/studies/{rows[0].study_instance_uid}"
        with (
            web.client(web.pki.archive) as client,
            pytest.raises(httpx.RemoteProtocolError),
        ):
            client.get(path, headers={"Accept": ANY})
        assert web.audited("get-end", "failure")[-1]["completed"] == 1


# storage


def test_what_is_stored_is_durable_and_as_sent(tmp_path: Path, pki: Pki) -> None:
    items = [example(name) for name in (*NAMES, "JPEG2000.dcm")]
    with serving(settings(tmp_path, pki), pki) as web:
        with web.client(pki.modality) as client:
            answer = stow(client, *items)
            again = stow(client, items[0])
        assert (answer.status_code, again.status_code) == (200, 200)
        stored = Dataset.from_json(answer.json()).ReferencedSOPSequence
        assert [i.ReferencedSOPInstanceUID for i in stored] == [
            item.sop_instance_uid for item in items
        ]
        for item in items:
            row = web.index.instance(item.sop_instance_uid)
            assert row is not None
            assert row.calling_ae == "MODALITY"
            data, syntax = web.store.read_data_set(row.path)
            assert (data, syntax) == (item.data, item.transfer_syntax_uid)
        first, second = web.audited("receive", "success")
        assert (first["stored"], second["duplicate"]) == (3, 1)


def test_what_cannot_be_stored_is_told_one_by_one(tmp_path: Path, pki: Pki) -> None:
    good = encoded(small("1.2.3.4"))
    other = encoded(small("1.2.3.4", PatientID="P2"))
    elsewhere = encoded(small("1.2.3.5", StudyInstanceUID="9.9"))
    nameless = encoded(small("1.2.3.6", StudyInstanceUID=None))
    odd = replace(encoded(small("1.2.3.7")), sop_class_uid="1.2.840.10008.1.1")
    lying = replace(encoded(small("1.2.3.8")), sop_instance_uid="1.2.3.9")
    with serving(settings(tmp_path, pki), pki) as web:
        with web.client(pki.modality) as client:
            answer = stow(
                client,
                good,
                other,
                elsewhere,
                nameless,
                odd,
                lying,
                b"no DICOM at all",
                b"x" * 4000,
                b"",
                path="/studies/1.2.3",
            )
            alone = stow(client, b"nothing")
        assert (answer.status_code, alone.status_code) == (202, 409)
        result = Dataset.from_json(answer.json())
        assert len(result.ReferencedSOPSequence) == 1
        reasons = [int(i.FailureReason) for i in result.FailedSOPSequence]
        assert reasons == [
            0xC0C0, 0xA900, 0xA900, 0x0122, 0xA900, 0xC000, 0xC000, 0xC000,
        ]  # fmt: skip
        assert len(web.audited("store", "refused")) == 9
        assert not list((web.store.root / "incoming").iterdir())


def test_bodies_that_are_none_are_refused(tmp_path: Path, pki: Pki) -> None:
    whole = stow_body(file_of(encoded(small())))
    kind = STOW["Content-Type"]
    with (
        serving(settings(tmp_path, pki), pki) as web,
        web.client(pki.modality) as client,
    ):
        for content, content_type, status in (
            (whole, "application/dicom", 415),
            (whole, kind.replace("application/dicom", "image/jpeg"), 415),
            (whole, 'multipart/related; type="application/dicom"', 400),
            (whole, "", 400),
            (whole[:-30], kind, 400),
            (whole.replace(b"application/dicom", b"application/json"), kind, 415),
            (b"", kind, 400),
            (b"--BOUNDARY--\r\n", kind, 400),
            (b"--BOUNDARY\r\n" + b"X: y\r\n" * 5000, kind, 400),
        ):
            answer = client.post(
                "/studies", content=content, headers={"Content-Type": content_type}
            )
            assert answer.status_code == status, (content_type, content[:40])
        assert client.get("/studies").status_code == 405
        assert not list((web.store.root / "incoming").iterdir())


def test_an_object_too_large_is_dropped_while_it_comes(
    tmp_path: Path, pki: Pki
) -> None:
    large = encoded(small("1.2.3.4", EncapsulatedDocument=bytes(2 << 20)))
    receiver = {"max_object_bytes": 1 << 20}
    with serving(settings(tmp_path, pki, receiver=receiver), pki) as web:
        with web.client(pki.modality) as client:
            answer = stow(client, large, encoded(small("1.2.3.5")))
        assert answer.status_code == 202
        (failed,) = Dataset.from_json(answer.json()).FailedSOPSequence
        assert int(failed.FailureReason) == 0xA700
        assert web.index.instance("1.2.3.4") is None
        assert web.index.instance("1.2.3.5") is not None


def test_hostile_objects_are_refused_like_any_other(tmp_path: Path, pki: Pki) -> None:
    """A length of 4 GiB, 10,000 sequences, a bomb, and paths in place of UIDs."""
    plain = encoded(small("1.2.3.4"))
    assert isinstance(plain.data, bytes)
    begins = (
        b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    )
    long = b"\x08\x00\x05\x00UT\0\0\xfe\xff\xff\xff"
    bomb = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    deflated = bomb.compress(bytes(64 << 20)) + bomb.flush()
    whole = file_of(plain)
    hostile = [
        file_of(replace(plain, data=begins * 10_000 + plain.data)),
        file_of(replace(plain, data=long + plain.data)),
        file_of(
            replace(plain, data=deflated, transfer_syntax_uid="1.2.840.10008.1.2.1.99")
        ),
        whole.replace(b"1.2.3.4\0", b"../../x\0"),
        whole.replace(b"1.2.3.4\0", b"/etc/x\0\0"),
        whole.replace(b"1.2.840.10008.1.2.1\0", b"../../../../../../x\0"),
        whole[:150],
        whole[:140] + b"\xff\xff\xff\xff" + whole[144:],
    ]
    with (
        serving(settings(tmp_path, pki), pki) as web,
        web.client(pki.modality) as client,
    ):
        answer = stow(client, *hostile)
        assert answer.status_code == 409
        failed = Dataset.from_json(answer.json()).FailedSOPSequence
        reasons = {int(item.FailureReason) for item in failed}
        assert len(failed) == len(hostile)
        assert reasons <= {0xA900, 0xC000, 0x0117}
        assert stow(client, plain).status_code == 200
        files = [f for f in web.store.root.rglob("*") if f.is_file()]
        assert len(files) == 1
        assert ".." not in web.audit.path.read_text()
