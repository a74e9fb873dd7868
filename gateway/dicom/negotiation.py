"""Presentation contexts, proposed and answered (PS3.8 7.1.1.13, 9.3.2.2, 9.3.3.2).

DCMTK's storescu proposes 128 contexts with every association, other senders half of
that. pynetdicom makes objects of all of them and checks each UID again at every step,
which is most of what an association costs. Here they stay text; only what was
answered becomes an object, as the rest of pynetdicom wants it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, cast

from pydicom.uid import UID
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import SCP_SCU_ROLES, PresentationContext

from gateway.dicom.pdu_checks import (
    CONTEXT_BYTES,
    HEADER_BYTES,
    ITEMS_AT,
    PRESENTATION_CONTEXT,
    items_of,
)
from gateway.errors import InvalidPdu

ANSWERED_CONTEXT: Final = 0x21
ABSTRACT_SYNTAX: Final = 0x30
TRANSFER_SYNTAX: Final = 0x40

# Results (PS3.8 Table 9-18)
ACCEPTED: Final = 0
USER_REJECTION: Final = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

PDU_HEAD: Final = struct.Struct(">BxL")
ITEM_HEAD: Final = struct.Struct(">BxH")
ANSWER_HEAD: Final = struct.Struct(">BxHBxBxBxH")
"""Of a context with its result, and of the transfer syntax in it."""


class Proposed(NamedTuple):
    """A presentation context as it was proposed."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


class Answer(NamedTuple):
    """What was made of all that was proposed.

    Attributes
    ----------
    contexts
        Each with its result and one transfer syntax, by number.
    roles
        What is replied to role selection (PS3.7 D.3.3.4.2).
    """

    contexts: list[PresentationContext]
    roles: list[SCP_SCU_RoleSelectionNegotiation]


def split_request(pdu: bytes) -> tuple[bytes, list[Proposed]]:
    """Take the presentation contexts out of an A-ASSOCIATE-RQ (PS3.8 9.3.2).

    Parameters
    ----------
    pdu
        With its header.

    Returns
    -------
    tuple
        The same PDU without them, and what they propose.

    Raises
    ------
    InvalidPdu
        Its lengths contradict each other, or a context lacks what it must have.
    """
    at = HEADER_BYTES + ITEMS_AT
    rest = [pdu[HEADER_BYTES:at]]
    proposed = []
    for kind, item in items_of(pdu[at:]):
        if kind == PRESENTATION_CONTEXT:
            proposed.append(_proposed(item))
        else:
            rest += [ITEM_HEAD.pack(kind, len(item)), item]
    body = b"".join(rest)
    return PDU_HEAD.pack(pdu[0], len(body)) + body, proposed


def _proposed(item: bytes) -> Proposed:
    abstract, transfer = "", []
    for kind, value in items_of(item[CONTEXT_BYTES:]):
        if kind == ABSTRACT_SYNTAX:
            abstract = _uid(value)
        elif kind == TRANSFER_SYNTAX:
            transfer.append(_uid(value))
    if not abstract or not transfer:
        raise InvalidPdu("a presentation context has no syntax of its kind")
    return Proposed(item[0], abstract, tuple(transfer))


def _uid(value: bytes) -> str:
    """Return a UID; some pad it as in a data set."""
    return value.decode("ascii", "replace").strip(" \0")


def negotiate(
    proposed: Iterable[Proposed],
    supported: Sequence[PresentationContext],
    roles: Mapping[str, tuple[bool, bool]],
) -> Answer:
    """Answer what was proposed, as `pynetdicom.presentation.negotiate_as_acceptor`.

    Parameters
    ----------
    proposed
        By the requestor.
    supported
        One for each SOP class, its transfer syntaxes in the order of choice.
    roles
        SCU and SCP role that the requestor proposes, by SOP class.
    """
    known = {str(one.abstract_syntax): one for one in supported}
    contexts = []
    replies: dict[str, SCP_SCU_RoleSelectionNegotiation] = {}
    for one in proposed:
        here = known.get(one.abstract_syntax)
        if here is None:
            contexts.append(_rejected(one, ABSTRACT_SYNTAX_NOT_SUPPORTED))
            continue
        syntax = next(
            (s for s in here.transfer_syntax if s in one.transfer_syntaxes), None
        )
        if syntax is None:
            contexts.append(_rejected(one, TRANSFER_SYNTAXES_NOT_SUPPORTED))
            continue
        wanted = roles.get(one.abstract_syntax)
        answered = _accepted(one, here, syntax, wanted)
        contexts.append(answered)
        takes_roles = None not in (here.scu_role, here.scp_role)
        if wanted is not None and takes_roles and answered.result == ACCEPTED:
            replies[one.abstract_syntax] = _reply(here, wanted)
    contexts.sort(key=lambda context: context.context_id or 0)
    return Answer(contexts, [replies[uid] for uid in sorted(replies)])


def _accepted(
    one: Proposed,
    here: PresentationContext,
    syntax: UID,
    wanted: tuple[bool, bool] | None,
) -> PresentationContext:
    """Accept a context, unless there is no role in which it could be used."""
    as_scu, as_scp = False, True
    if here.scu_role is not None and here.scp_role is not None:
        outcome = SCP_SCU_ROLES[wanted or (None, None)][here.scu_role, here.scp_role]
        as_scu, as_scp = outcome[2], outcome[3]
    context = _answered(one.context_id, cast("UID", here.abstract_syntax), syntax)
    context.result = ACCEPTED if as_scu or as_scp else USER_REJECTION
    context._as_scu, context._as_scp = as_scu, as_scp
    return context


def _rejected(one: Proposed, result: int) -> PresentationContext:
    """Reject one; its transfer syntax has no meaning then."""
    first = UID(one.transfer_syntaxes[0])
    context = _answered(one.context_id, UID(one.abstract_syntax), first)
    context.result = result
    context._as_scu = context._as_scp = False
    return context


def _answered(number: int, abstract: UID, transfer: UID) -> PresentationContext:
    """Make a context of UIDs that need no check any more."""
    context = PresentationContext()
    context.context_id = number
    context._abstract_syntax = abstract
    context._transfer_syntax = [transfer]
    return context


def _reply(
    here: PresentationContext, wanted: tuple[bool, bool]
) -> SCP_SCU_RoleSelectionNegotiation:
    """Reply to a role: none can be accepted that was not proposed."""
    reply = SCP_SCU_RoleSelectionNegotiation()
    reply.sop_class_uid = here.abstract_syntax
    reply.scu_role = bool(wanted[0] and here.scu_role)
    reply.scp_role = bool(wanted[1] and here.scp_role)
    return reply


def with_answers(pdu: bytes, contexts: Iterable[PresentationContext]) -> bytes:
    """Put answered contexts into an A-ASSOCIATE-AC that has none (PS3.8 9.3.3).

    Parameters
    ----------
    pdu
        With its header; its first item is the application context.
    contexts
        From `negotiate`.
    """
    at = HEADER_BYTES + ITEMS_AT
    at += ITEM_HEAD.size + ITEM_HEAD.unpack_from(pdu, at)[1]
    body = b"".join([pdu[HEADER_BYTES:at], *map(_encoded, contexts), pdu[at:]])
    return PDU_HEAD.pack(pdu[0], len(body)) + body


def _encoded(context: PresentationContext) -> bytes:
    syntax = context.transfer_syntax[0].encode("ascii")
    head = ANSWER_HEAD.pack(
        ANSWERED_CONTEXT,
        len(syntax) + ANSWER_HEAD.size - ITEM_HEAD.size,
        context.context_id,
        context.result,
        TRANSFER_SYNTAX,
        len(syntax),
    )
    return head + syntax
