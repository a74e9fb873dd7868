"""Presentation contexts: answered as pynetdicom answers them, from and to octets."""

from __future__ import annotations

import random

import pytest
from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import (
    PresentationContext,
    build_context,
    negotiate_as_acceptor,
)

from gateway.dicom.negotiation import (
    Proposed,
    negotiate,
    split_request,
    with_answers,
)
from gateway.errors import InvalidPdu

CLASSES = [f"1.2.840.10008.5.1.4.1.1.{number}" for number in range(1, 7)]
SYNTAXES = [f"1.2.840.10008.1.2.{number}" for number in range(1, 6)]
ROLES = [(scu, scp) for scu in (False, True) for scp in (False, True)]
SEEDS = range(200)


def proposed_contexts(chance: random.Random) -> list[PresentationContext]:
    contexts = []
    numbers = chance.sample(range(1, 256, 2), chance.randint(1, 12))
    for number in numbers:
        chosen = chance.sample(SYNTAXES, chance.randint(1, len(SYNTAXES)))
        context = build_context(chance.choice(CLASSES), chosen)
        context.context_id = number
        contexts.append(context)
    return contexts


def supported_contexts(chance: random.Random) -> list[PresentationContext]:
    contexts = []
    for uid in chance.sample(CLASSES, chance.randint(1, len(CLASSES))):
        chosen = chance.sample(SYNTAXES, chance.randint(1, len(SYNTAXES)))
        context = build_context(uid, chosen)
        if chance.random() < 0.6:
            context.scu_role, context.scp_role = chance.choice(ROLES)
        contexts.append(context)
    return contexts


def told(contexts: list[PresentationContext]) -> list[tuple[object, ...]]:
    """Return what matters of contexts; a syntax only where one was accepted."""
    return [
        (
            c.context_id,
            str(c.abstract_syntax),
            [str(s) for s in c.transfer_syntax] if c.result == 0 else None,
            c.result,
            c.as_scu if c.result == 0 else None,
            c.as_scp if c.result == 0 else None,
        )
        for c in contexts
    ]


def request_with(contexts: list[PresentationContext]) -> bytes:
    """Encode an A-ASSOCIATE-RQ as pynetdicom does."""
    primitive = association_primitive()
    primitive.presentation_context_definition_list = contexts
    return bytes(A_ASSOCIATE_RQ(primitive).encode())


def association_primitive() -> A_ASSOCIATE:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID("1.2.840.10008.3.1.1.1")
    primitive.calling_ae_title, primitive.called_ae_title = "THERE", "HERE"
    longest = MaximumLengthNotification()
    longest.maximum_length_received = 16384
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID("1.2.3")
    primitive.user_information = [longest, implementation]
    return primitive


@pytest.mark.parametrize("seed", SEEDS)
def test_contexts_are_answered_as_pynetdicom_answers_them(seed: int) -> None:
    chance = random.Random(seed)
    proposed, supported = proposed_contexts(chance), supported_contexts(chance)
    roles = {
        uid: chance.choice(ROLES)
        for uid in chance.sample(CLASSES, chance.randint(0, 4))
    }
    _, ours = split_request(request_with(proposed))

    answer = negotiate(ours, supported, roles)

    contexts, replies = negotiate_as_acceptor(
        proposed, supported, {UID(uid): role for uid, role in roles.items()}
    )
    assert told(answer.contexts) == told(contexts)
    assert [
        (str(r.sop_class_uid), bool(r.scu_role), bool(r.scp_role)) for r in answer.roles
    ] == [(str(r.sop_class_uid), bool(r.scu_role), bool(r.scp_role)) for r in replies]


@pytest.mark.parametrize("seed", SEEDS[:20])
def test_the_pdus_are_those_of_pynetdicom(seed: int) -> None:
    chance = random.Random(seed)
    proposed = proposed_contexts(chance)
    encoded = request_with(proposed)

    rest, ours = split_request(encoded)

    assert ours == [
        Proposed(c.context_id or 0, str(c.abstract_syntax), tuple(c.transfer_syntax))
        for c in proposed
    ]
    request = A_ASSOCIATE_RQ()
    request.decode(rest)
    assert request.pdu_length == len(rest) - 6
    assert request.presentation_context == []
    assert str(request.calling_ae_title) == "THERE"
    assert request.user_information is not None

    contexts = negotiate(ours, supported_contexts(chance), {}).contexts
    whole = association_primitive()
    whole.result, whole.result_source = 0, 1
    bare = bytes(A_ASSOCIATE_AC(whole).encode())
    whole.presentation_context_definition_results_list = contexts
    assert with_answers(bare, contexts) == bytes(A_ASSOCIATE_AC(whole).encode())


def test_uids_padded_as_in_a_data_set_are_known() -> None:
    context = build_context("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])
    context.context_id = 1
    encoded = request_with([context])
    # "1.2.840.10008.1.1" and a NUL, in an item that is one octet longer
    at = encoded.index(b"1.2.840.10008.1.1\x40")
    padded = bytearray(encoded)
    padded[at + 17 : at + 17] = b"\0"
    for length_at in (at - 2, at - 10):  # of the abstract syntax, of the context
        length = int.from_bytes(padded[length_at : length_at + 2], "big")
        padded[length_at : length_at + 2] = (length + 1).to_bytes(2, "big")

    _, (found,) = split_request(bytes(padded))

    assert found.abstract_syntax == "1.2.840.10008.1.1"


@pytest.mark.parametrize("missing", [0x30, 0x40])
def test_a_context_without_a_syntax_is_none(missing: int) -> None:
    context = build_context("1.2.840.10008.1.1", ["1.2.840.10008.1.2"])
    context.context_id = 1
    encoded = bytearray(request_with([context]))
    kinds = {0x30: b"1.2.840.10008.1.1\x40", 0x40: b"1.2.840.10008.1.2P"}
    at = encoded.index(kinds[missing]) - 4
    assert encoded[at] == missing
    encoded[at] = 0x77
    with pytest.raises(InvalidPdu, match="no syntax"):
        split_request(bytes(encoded))
