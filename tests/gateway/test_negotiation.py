"""What is agreed before a query: classes, roles and extended negotiation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pynetdicom import build_role
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

from gateway.dicom.contexts import storage_classes
from tests.gateway.scp import (
    CT_IMAGE,
    EXPLICIT,
    MODALITY,
    WORKSTATION,
    Gateway,
    associated,
    encoded,
    gateway,
    send,
    site,
    small,
)
from tests.gateway.test_find import ask, identifier
from tests.gateway.test_readers import BOTH, READER, sections

ROOT = "1.2.840.10008.5.1.4.1.2"
STUDY_FIND, STUDY_MOVE, STUDY_GET = (f"{ROOT}.2.{n}" for n in (1, 2, 3))
MODELS = {
    *(f"{ROOT}.{model}.{service}" for model in (1, 2) for service in (1, 2, 3)),
    f"{ROOT}.4.2",
    f"{ROOT}.4.3",
}
RETIRED = {f"{ROOT}.3.{n}" for n in (1, 2, 3)}
NOT_OFFERED = {
    *RETIRED,
    f"{ROOT}.5.3",  # Composite Instance Retrieve Without Bulk Data
    "1.2.840.10008.5.1.4.31",  # Modality Worklist
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = site(tmp_path_factory.mktemp("negotiation"), **sections(1))
    with gateway(settings) as listening:
        assert send(listening.port, encoded(small("1.2.3.4"))) == [0x0000]
        yield listening


def ends(running: Gateway) -> list[tuple[int, str, str]]:
    """Port, calling and called AE title of those who may ask on either AE."""
    return [
        (running.port, READER, "MIAD-GATEWAY"),
        (running.recovery_port, WORKSTATION, "MIAD-RECOVERY"),
    ]


@pytest.mark.parametrize("end", [0, 1], ids=["receiver", "recovery"])
def test_the_models_are_accepted_and_the_retired_declined(
    running: Gateway, end: int
) -> None:
    proposed = [(uid, EXPLICIT) for uid in sorted(MODELS | NOT_OFFERED)]
    with associated(ends(running)[end][0], proposed, *ends(running)[end][1:]) as made:
        accepted = {str(c.abstract_syntax) for c in made.accepted_contexts}
        results = {c.result for c in made.rejected_contexts}
    assert accepted == MODELS
    assert results == {0x03}  # abstract syntax not supported


# Roles (PS3.7 D.3.3.4)


def ct_context(association: Association) -> tuple[bool, bool] | None:
    """Whether this side may be SCU and SCP of CT; None: not accepted."""
    for context in association.accepted_contexts:
        if context.abstract_syntax == CT_IMAGE:
            return bool(context.as_scu), bool(context.as_scp)
    return None


@pytest.mark.parametrize(
    ("calling", "proposed", "agreed"),
    [
        (READER, (False, True), (False, True)),
        (READER, (True, True), (False, True)),
        (READER, (True, False), None),
        (READER, None, None),
        (MODALITY, (False, True), (True, False)),  # no answer: the default roles
        (MODALITY, None, (True, False)),
        (BOTH, (True, True), (True, True)),
        (BOTH, (False, True), (False, True)),
        (BOTH, None, (True, False)),
    ],
)
def test_roles_are_those_of_the_purposes(
    running: Gateway,
    calling: str,
    proposed: tuple[bool, bool] | None,
    agreed: tuple[bool, bool] | None,
) -> None:
    roles = []
    if proposed is not None:
        scu, scp = proposed
        roles = [build_role(CT_IMAGE, scu_role=scu, scp_role=scp)]
    contexts = [(CT_IMAGE, EXPLICIT), ("1.2.840.10008.1.1", EXPLICIT)]
    with associated(running.port, contexts, calling, ext_neg=roles) as association:
        assert association.is_established
        assert ct_context(association) == agreed


def test_a_reader_that_sends_an_object_is_cut_off(running: Gateway) -> None:
    """Also one that claims a role it was not given."""
    roles = [build_role(CT_IMAGE, scp_role=True)]
    contexts = [(CT_IMAGE, EXPLICIT)]
    with associated(running.port, contexts, READER, ext_neg=roles) as association:
        (context,) = association.accepted_contexts
        context._as_scu = True
        item = small("1.2.3.66")
        item.ensure_file_meta()
        item.file_meta.TransferSyntaxUID = EXPLICIT
        assert "Status" not in association.send_c_store(item)
    assert running.index.instance("1.2.3.66") is None


def test_every_storage_class_can_be_got(running: Gateway) -> None:
    classes = storage_classes()
    for start in range(0, len(classes), 127):
        some = classes[start : start + 127]
        contexts = [(STUDY_GET, EXPLICIT), *((uid, EXPLICIT) for uid in some)]
        roles = [build_role(uid, scp_role=True) for uid in some]
        with associated(
            running.recovery_port,
            contexts,
            WORKSTATION,
            "MIAD-RECOVERY",
            ext_neg=roles,
        ) as association:
            assert not association.rejected_contexts


# Extended negotiation (PS3.4 C.5)


def negotiate(
    running: Gateway, sop_class: str, proposed: bytes, end: int = 1
) -> bytes | None:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = sop_class
    item.service_class_application_information = proposed
    port, calling, called = ends(running)[end]
    contexts = [(sop_class, EXPLICIT), ("1.2.840.10008.1.1", EXPLICIT)]
    with associated(port, contexts, calling, called, ext_neg=[item]) as association:
        assert association.is_established
        answered = association.acceptor.sop_class_extended
        return next((v for uid, v in answered.items() if uid == sop_class), None)


@pytest.mark.parametrize("end", [0, 1], ids=["receiver", "recovery"])
@pytest.mark.parametrize(
    ("sop_class", "proposed", "answered"),
    [
        (STUDY_FIND, b"\x01", b"\x01"),
        (STUDY_FIND, b"\x00", b"\x00"),
        # relational, date-time, fuzzy names, timezone, enhanced multi-frame
        (STUDY_FIND, b"\x01\x01\x01\x01\x01", b"\x01\x00\x00\x00\x00"),
        (STUDY_FIND, b"\x00\x01\x01", b"\x00\x00\x00"),
        (STUDY_MOVE, b"\x01", b"\x01"),
        (STUDY_MOVE, b"\x01\x01", b"\x01\x00"),
        (STUDY_GET, b"\x00\x01", b"\x00\x00"),
        (f"{ROOT}.4.3", b"\x01", None),  # has no relational retrieval
        (f"{ROOT}.3.1", b"\x01", None),  # is not accepted at all
    ],
)
def test_extended_negotiation_agrees_to_relational_only(
    running: Gateway, sop_class: str, proposed: bytes, answered: bytes | None, end: int
) -> None:
    assert negotiate(running, sop_class, proposed, end) == answered


def test_who_may_not_ask_is_answered_no_extended_negotiation(running: Gateway) -> None:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = STUDY_FIND
    item.service_class_application_information = b"\x01"
    contexts = [(STUDY_FIND, EXPLICIT), (CT_IMAGE, EXPLICIT)]
    with associated(running.port, contexts, MODALITY, ext_neg=[item]) as association:
        assert association.acceptor.sop_class_extended == {}


def test_date_time_matching_is_not_done_when_it_was_declined(running: Gateway) -> None:
    """Date and time ranges are matched one by one, as by default (C.2.2.2.5)."""
    with associated(
        running.recovery_port, [(STUDY_FIND, EXPLICIT)], WORKSTATION, "MIAD-RECOVERY"
    ) as association:
        query = identifier("STUDY", StudyInstanceUID="", StudyDate="-20991231")
        assert ask(association, query) == ([], 0x0000)  # the object has no date
