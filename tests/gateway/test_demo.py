"""The demo notices when something it promises did not happen."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from gateway.demo.cases import Case, demo_cases
from gateway.demo.identities import make_identities
from gateway.demo.nodes import Arrival, StorageNode, data_set_of
from gateway.demo.outcome import (
    Outcome,
    dciodvfy_errors,
    pictures_of,
    problems_of,
    row_of,
    summary_of,
)
from gateway.demo.report import write_json, write_report
from gateway.demo.site import write_site
from gateway.route.rules import load_checked
from gateway.store.rows import Protected
from gateway.tls.certificates import fingerprint_of, read_certificates, sha256_of
from gateway.tls.check import check_tls
from gateway.tls.handshake import Requested, TlsSocket
from tests.gateway.pki_cases import now, secrets_in
from tests.gateway.scp import CT_IMAGE, EXPLICIT, associated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAID = {"label": "no_tumor", "ensemble": [0.1, 0.9]}
FRAME: dict[str, Any] = {
    "objective": "diagnosis",
    "before": SAID,
    "after": {"label": "glioma_tumor", "ensemble": [0.8, 0.2]},
    "displacement": 0.1,
    "alpha": 102,
    "x": 3,
    "y": 4,
    "queries": 7,
    "seconds": {"mask": 0.5, "search": 1.0},
    "ssim": 0.9,
    "psnr": 30.0,
    "lesion_boxes": [{"x0": 1, "y0": 2, "x1": 9, "y1": 8}],
}


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return demo_cases()


def arrival(case: Case, uid: str, change: bytes = b"") -> Arrival:
    return Arrival(
        sop_instance_uid=uid,
        sop_class_uid=case.sop_class_uid,
        transfer_syntax_uid=case.transfer_syntax_uid,
        data_set=data_set_of(case.part10) + change,
        part10=case.part10 + change,
    )


def protected(number: int, case: Case) -> Protected:
    return Protected(
        id=number,
        instance_id=number,
        sop_instance_uid=f"2.25.{number + 1}",
        series_instance_uid="2.25.900",
        study_instance_uid=case.study_instance_uid,
        sop_class_uid=case.sop_class_uid,
        transfer_syntax_uid=case.transfer_syntax_uid,
        path="",
        sha256="",
        report={"frames": [FRAME]},
        created_at="",
    )


@pytest.fixture
def good(cases: list[Case]) -> Outcome:
    """Two slices that went the way they should."""
    two = cases[:2]
    rows = {c.sop_instance_uid: protected(n, c) for n, c in enumerate(two)}
    padding = b"\xfc\xff\xfc\xffOB\0\0\0\0\0\0"  # Data Set Trailing Padding
    return Outcome(
        cases=two,
        accepted=[0, 0],
        outside=[
            arrival(c, rows[c.sop_instance_uid].sop_instance_uid, padding) for c in two
        ],
        returned=[arrival(c, c.sop_instance_uid) for c in two],
        refused_studies=frozenset({two[0].study_instance_uid}),
        protected=rows,
        seconds=1.0,
    )


def problems(
    outcome: Outcome, complaints: dict[str, list[str]] | None = None
) -> list[str]:
    found = complaints or {}
    rows = [row_of(case, outcome, found) for case in outcome.cases]
    return problems_of(rows, outcome, found)


def test_ten_slices_of_the_mr_and_four_other_images_are_sent(cases: list[Case]) -> None:
    source = dcmread(str(get_testdata_file("emri_small.dcm", download=False)))
    slices = [dcmread(BytesIO(case.part10)) for case in cases[:10]]
    for number, ds in enumerate(slices):
        assert (ds.pixel_array == source.pixel_array[number]).all()
    assert {ds.SeriesInstanceUID for ds in slices} == {slices[0].SeriesInstanceUID}
    assert len({case.sop_instance_uid for case in cases}) == len(cases) == 14
    modalities = [dcmread(BytesIO(c.part10)).Modality for c in cases[10:]]
    assert modalities == ["CT", "CR", "US", "MR"]
    assert [c.sop_instance_uid for c in demo_cases()] == [
        c.sop_instance_uid for c in cases
    ]


def test_nothing_is_wrong_when_everything_went_right(good: Outcome) -> None:
    assert problems(good) == []


BROKEN: dict[str, Callable[[Outcome], Outcome]] = {
    "was not protected": lambda o: replace(o, protected={}),
    "did not arrive outside": lambda o: replace(o, outside=o.outside[:1]),
    "was not recovered byte for byte": lambda o: replace(o, returned=o.returned[1:]),
    "was given to a stranger": lambda o: replace(o, refused_studies=frozenset()),
    "C-STORE answered": lambda o: replace(o, accepted=[0, 0xA700]),
    "an unprotected original": lambda o: replace(
        o, outside=[*o.outside, o.returned[0]]
    ),
    "arrived outside twice": lambda o: replace(o, outside=[*o.outside, o.outside[0]]),
}


@pytest.mark.parametrize("promise", BROKEN)
def test_each_broken_promise_is_named(good: Outcome, promise: str) -> None:
    assert any(promise in problem for problem in problems(BROKEN[promise](good)))


def test_one_changed_byte_is_not_an_exact_recovery(good: Outcome) -> None:
    changed = replace(good.returned[0], data_set=good.returned[0].data_set[:-1] + b"!")
    outcome = replace(good, returned=[changed, good.returned[1]])
    assert any("byte for byte" in problem for problem in problems(outcome))


def test_what_dciodvfy_says_is_a_problem(good: Outcome) -> None:
    uid = good.outside[0].sop_instance_uid
    assert problems(good, {uid: ["Error - Missing attribute"]}) != []


def test_dciodvfy_is_asked(tmp_path: Path, cases: list[Case]) -> None:
    # The split MR has lost its positions, which the MR Image IOD demands.
    path = tmp_path / "2.25.1.dcm"
    path.write_bytes(cases[0].part10)
    assert any("ImagePositionPatient" in e for e in dciodvfy_errors([path])["2.25.1"])


def test_page_and_table_are_written(good: Outcome, tmp_path: Path) -> None:
    rows = [row_of(case, good, {}) for case in good.cases]
    summary = summary_of(rows, good, [])
    shown = [pictures_of(case, good) for case in good.cases]
    page = write_report(tmp_path, rows, shown, summary).read_text("utf-8")
    assert "MR head 1/10" in page
    assert "no tumor 0.90" in page
    for name in ("original", "lesion", "protected", "difference", "recovered"):
        assert (tmp_path / "images" / f"01-{name}.png").stat().st_size > 0
        assert f"images/01-{name}.png" in page
    write_json(tmp_path / "demo.json", rows, summary)
    assert '"recovered_exactly": true' in (tmp_path / "demo.json").read_text()


def test_the_demos_site_has_nothing_in_clear(tmp_path: Path) -> None:
    identities = make_identities(tmp_path / "pki")
    path = write_site(tmp_path, identities, outside_port=1, workstation_port=2)

    site = load_checked(path, environ={})

    check_tls(site, secrets_in(site.data_directory), now())
    ends = (site.receiver, site.recovery)
    assert all(end.plain_port is None for end in ends)
    called = (*site.nodes, *site.destinations, *site.recovery.destinations)
    assert not any(peer.plain for peer in called)
    stranger = sha256_of(read_certificates(identities.stranger.certificate)[0])
    pins = {fingerprint_of(one) for node in site.nodes for one in node.certificates}
    assert len(pins) == 2
    assert stranger not in pins


def test_the_demos_nodes_speak_tls_only(tmp_path: Path) -> None:
    """The outside node wants the gateway's certificate, and gets nothing in clear."""
    identities = make_identities(tmp_path / "pki")
    store = [(CT_IMAGE, EXPLICIT)]
    context, name = identities.gateway.calling()
    context.sslsocket_class = TlsSocket
    known = Requested(
        context=context,
        server_name=name,
        pins=frozenset(),
        revoked=lambda _certificate: False,
        clock=now,
    )
    with StorageNode("OUTSIDE", tls=identities.outside) as node:
        for tls in (None, known):
            with associated(
                node.port, store, "GATEWAY", "OUTSIDE", tls_args=tls
            ) as association:
                assert association.is_established is (tls is not None)
