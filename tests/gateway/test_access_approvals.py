"""Many originals leave only when two different people have signed for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import delete

from gateway.access.access import Access
from gateway.access.requests import Approval, RecoveryRequest
from gateway.access.signatures import read_certificate, sign, verify
from gateway.errors import AccessTampered, ApprovalNeeded, ApprovalRefused
from gateway.store.find import FindKeys
from gateway.store.index import Index
from gateway.store.rows import Instance
from gateway.store.schema import releases
from gateway.tls.issuing import Subject, certificate_pem, make_certificate
from tests.gateway.access_cases import DAY, NOON, House, static
from tests.gateway.pki_cases import NodeFiles, Pki, period, pki_of
from tests.gateway.test_access_grants import put
from tests.gateway.test_index import new

LIMIT = 3

pytestmark = pytest.mark.usefixtures("houses")


@dataclass(frozen=True)
class Signer:
    """A person with a key and a certificate."""

    name: str
    files: NodeFiles

    @property
    def pem(self) -> str:
        return self.files.certificate.read_text()

    def approval(self, request: RecoveryRequest, **changes: str) -> Approval:
        key = load_pem_private_key(self.files.key.read_bytes(), None)
        signed = Approval(
            at="",
            person=self.name,
            certificate=self.pem,
            signature=sign(key, request.signed),
        )
        return replace(signed, **changes)


@dataclass(frozen=True)
class Office:
    """Two approvers, a security officer, and ten originals of five studies."""

    house: House
    pki: Pki
    anna: Signer
    bert: Signer
    carl: Signer

    def objects(self, access: Access, count: int, first: int = 0) -> list[Instance]:
        granted = access.given(self.house.caller()).matching(FindKeys({})).granted
        return granted[first : first + count]

    def needed(self, access: Access, objects: Sequence[Instance]) -> RecoveryRequest:
        """Ask for too many; the request that was recorded."""
        with pytest.raises(ApprovalNeeded) as refused:
            access.release(self.house.caller(), objects)
        found, _ = access.requests()
        return next(r for r in found if r.id == refused.value.approval)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    pki = pki_of(tmp_path / "pki")
    people = {
        name: Signer(
            name, pki.authority.node(name, valid=period(-2000 * DAY, 2000 * DAY))
        )
        for name in ("anna", "bert", "carl")
    }
    tables = [
        {
            "name": name,
            "roles": ["approver" if name != "carl" else "security"],
            "certificates": [signer.files.certificate],
        }
        for name, signer in people.items()
    ]
    settings = {
        "grants": [static()],
        "people": tables,
        "recovery": {"two_person_above": LIMIT, "two_person_window_minutes": 60},
    }
    house = House(tmp_path / "data", settings)
    with house.process() as (_, index):
        fill(index)
    return Office(house, pki, **people)


def fill(index: Index) -> None:
    put(index, [new(n, study_instance_uid=f"1.5.{n // 2}") for n in range(10)])


def test_few_originals_leave_until_the_window_is_full(office: Office) -> None:
    with office.house.opened() as access:
        caller = office.house.caller()
        access.release(caller, office.objects(access, LIMIT))
        access.release(caller, office.objects(access, LIMIT))  # the same again
        office.needed(access, office.objects(access, 1, first=LIMIT))
        access.release(office.house.caller("clinic"), office.objects(access, 1, 5))
    with office.house.opened() as other:  # another process, or after a restart
        office.needed(other, office.objects(other, 1, first=LIMIT))
        office.house.clocks.pass_(timedelta(minutes=61))
        other.release(caller, office.objects(other, 1, first=LIMIT))


def test_the_window_holds_when_the_clock_is_set_forward_and_back(
    office: Office,
) -> None:
    with office.house.opened() as access:
        access.release(office.house.caller(), office.objects(access, LIMIT))
        office.house.clocks.wall -= DAY
        office.needed(access, office.objects(access, 1, first=LIMIT))


def test_two_people_let_a_request_pass_once(office: Office) -> None:
    house, caller = office.house, office.house.caller()
    with house.opened() as access:
        objects = office.objects(access, 10)
        request = office.needed(access, objects)
        assert request.content["objects"] == 10
        assert request.content["studies"] == [f"1.5.{n}" for n in range(5)]
        assert office.needed(access, objects).id == request.id  # not a second one
        access.approve(request.id, office.anna.approval(request), "tester")
        assert office.needed(access, objects).id == request.id
    with house.opened() as access:
        access.approve(request.id, office.bert.approval(request), "tester")
        access.release(caller, list(reversed(objects)))
        again = office.needed(access, objects)
        assert again.id != request.id
        access.release(caller, objects[:LIMIT])  # what was approved fills no window
    assert [e["approval"] for e in house.audited("approval-used")] == [request.id]
    assert [e["person"] for e in house.audited("approve")] == ["anna", "bert"]
    assert {e["outcome"] for e in house.audited("approval-needed")} == {"refused"}


def test_an_approval_is_for_the_same_request_only(office: Office) -> None:
    with office.house.opened() as access:
        objects = office.objects(access, 5)
        request = office.needed(access, objects)
        for signer in (office.anna, office.bert):
            access.approve(request.id, signer.approval(request), "tester")
        others = [
            (office.house.caller(), office.objects(access, 6), ""),
            (office.house.caller(), office.objects(access, 5, first=1), ""),
            (office.house.caller(), objects, "ARCHIVE"),
            (office.house.caller("clinic"), objects, ""),
            (office.house.caller(user="anna"), objects, ""),
        ]
        for caller, wanted, destination in others:
            with pytest.raises(ApprovalNeeded) as refused:
                access.release(caller, wanted, destination)
            assert refused.value.approval != request.id
        access.release(office.house.caller(), objects)


def test_an_approval_lapses(office: Office) -> None:
    with office.house.opened() as access:
        objects = office.objects(access, 5)
        request = office.needed(access, objects)
        access.approve(request.id, office.anna.approval(request), "tester")
        access.approve(request.id, office.bert.approval(request), "tester")
        office.house.clocks.pass_(timedelta(hours=24))
        assert office.needed(access, objects).id != request.id
        with pytest.raises(ApprovalRefused, match="lapsed"):
            access.approve(request.id, office.anna.approval(request), "tester")


def refused(office: Office, given: Approval, match: str, id: str | None = None) -> None:
    with office.house.opened() as access:
        request = access.requests()[0][0]
        with pytest.raises(ApprovalRefused, match=match):
            access.approve(id or request.id, given, "tester")
        assert not access.approvers(request, NOON)
    assert [e["outcome"] for e in office.house.audited("approve")] == ["refused"]


@pytest.fixture
def request_(office: Office) -> RecoveryRequest:
    with office.house.opened() as access:
        return office.needed(access, office.objects(access, 5))


def test_a_person_without_the_role_approves_nothing(
    office: Office, request_: RecoveryRequest
) -> None:
    refused(office, office.carl.approval(request_), "lacks the role")


def test_nobody_approves_in_anothers_name(
    office: Office, request_: RecoveryRequest
) -> None:
    given = office.bert.approval(request_, person="anna")
    refused(office, given, "none of anna's in")


def test_a_certificate_alone_approves_nothing(
    office: Office, request_: RecoveryRequest
) -> None:
    given = office.bert.approval(request_, person="anna", certificate=office.anna.pem)
    refused(office, given, "not of this request")


def test_a_signature_is_of_one_request(
    office: Office, request_: RecoveryRequest
) -> None:
    with office.house.opened() as access:
        other = office.needed(access, office.objects(access, 6))
    assert other.id != request_.id
    refused(office, office.anna.approval(other), "not of this request")


@pytest.mark.parametrize("signature", ["", "AAAA", "no base64!"])
def test_a_made_up_signature_is_refused(
    office: Office, request_: RecoveryRequest, signature: str
) -> None:
    given = office.anna.approval(request_, signature=signature)
    refused(office, given, "not of this request")


def test_an_unknown_request_is_refused(
    office: Office, request_: RecoveryRequest
) -> None:
    refused(office, office.anna.approval(request_), "no request is named", "abc")


def test_a_certificate_that_has_ended_approves_nothing(
    office: Office, request_: RecoveryRequest
) -> None:
    office.pki.authority.node("anna", valid=period(-2000 * DAY, -400 * DAY))
    refused(office, office.anna.approval(request_), "has ended")


def test_the_same_person_counts_once(office: Office, request_: RecoveryRequest) -> None:
    with office.house.opened() as access:
        access.approve(request_.id, office.anna.approval(request_), "tester")
        with pytest.raises(ApprovalRefused, match="another person"):
            access.approve(request_.id, office.anna.approval(request_), "tester")
        assert office.needed(access, office.objects(access, 5)).id == request_.id


def test_two_names_with_one_certificate_are_one_person(
    office: Office, request_: RecoveryRequest
) -> None:
    people = office.house.settings["people"]
    people[1]["certificates"] = people[0]["certificates"]
    bert = replace(office.anna, name="bert")
    with office.house.opened() as access:
        for signer in (office.anna, bert):
            access.approve(request_.id, signer.approval(request_), "tester")
        assert office.needed(access, office.objects(access, 5)).id == request_.id


def test_who_is_no_approver_any_more_does_not_count(
    office: Office, request_: RecoveryRequest
) -> None:
    with office.house.opened() as access:
        for signer in (office.anna, office.bert):
            access.approve(request_.id, signer.approval(request_), "tester")
    office.house.settings["people"][0]["roles"] = ["viewer"]
    with office.house.opened() as access:
        assert office.needed(access, office.objects(access, 5)).id == request_.id


def test_requests_that_wait_are_bounded(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 5
    monkeypatch.setattr("gateway.access.approvals.MOST_OPEN", most)
    with office.house.process() as (access, index):
        put(index, [new(n) for n in range(most + 10)])
        objects = office.objects(access, most + 10)
        for number in range(most):
            office.needed(access, objects[: number + LIMIT + 1])
        with pytest.raises(ApprovalNeeded) as refused_:
            access.release(office.house.caller(), objects)
        assert refused_.value.approval == ""
        assert len(access.requests()[0]) == most


def test_what_was_given_is_not_forgotten_by_deleting_it(office: Office) -> None:
    with office.house.process() as (access, index):
        access.release(office.house.caller(), office.objects(access, LIMIT))
        with index.database.write() as connection:
            connection.execute(delete(releases))
        with pytest.raises(AccessTampered, match="table releases"):
            access.release(office.house.caller(), office.objects(access, 1))


def test_without_a_limit_nothing_is_counted(tmp_path: Path) -> None:
    house = House(tmp_path, {"grants": [static()]})
    with house.process() as (access, index):
        fill(index)
        rows = access.given(house.caller()).matching(FindKeys({})).granted
        access.release(house.caller(), rows)
        with index.database.read() as connection:
            assert connection.execute(releases.select()).all() == []


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "ecdsa", "ed25519"],
)
def test_people_sign_with_any_usual_key(
    pki: Pki, key: ed25519.Ed25519PrivateKey
) -> None:
    subject = Subject(name="anna")
    made = make_certificate(
        pki.authority.issuer, subject, key.public_key(), period(-DAY, DAY)
    )
    moment = made.not_valid_before_utc + timedelta(hours=1)
    certificate = read_certificate(certificate_pem(made).decode(), moment)
    signature = sign(key, b"message")
    verify(certificate, signature, b"message")
    with pytest.raises(ApprovalRefused):
        verify(certificate, signature, b"another")
