"""The presentation contexts of the two AE titles (PS3.4 B.5, C.6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from enum import Enum
from functools import cache
from typing import NamedTuple

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import (
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.presentation import (
    AllStoragePresentationContexts,
    PresentationContext,
    build_context,
)

from gateway.dicom.parse import DEFLATED_FRAMES, JPEG_XL

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model (PS3.4 J)."""
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
PATIENT_ROOT_GET = "1.2.840.10008.5.1.4.1.2.1.3"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
COMPOSITE_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.4.2"
COMPOSITE_ROOT_GET = "1.2.840.10008.5.1.4.1.2.4.3"
FIND_MODELS = frozenset({PATIENT_ROOT_FIND, STUDY_ROOT_FIND})
MOVE_MODELS = frozenset({PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE, COMPOSITE_ROOT_MOVE})
GET_MODELS = frozenset({PATIENT_ROOT_GET, STUDY_ROOT_GET, COMPOSITE_ROOT_GET})
PATIENT_ROOT_MODELS = frozenset(
    {PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET}
)
COMPOSITE_ROOT_MODELS = frozenset({COMPOSITE_ROOT_MOVE, COMPOSITE_ROOT_GET})
RETRIEVE_MODELS = MOVE_MODELS | GET_MODELS
HIERARCHICAL_MODELS = (FIND_MODELS | RETRIEVE_MODELS) - COMPOSITE_ROOT_MODELS

UNCOMPRESSED = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
)

# Private storage classes that hospitals' devices are known to send.
PRIVATE_STORAGE = (
    "1.3.12.2.1107.5.9.1",  # Siemens CSA Non-Image Storage
    "1.3.12.2.1107.5.99.3.10",  # Siemens AX Frame Sets Storage
    "1.3.12.2.1107.5.99.3.11",  # Siemens AX QVA Storage
    "1.2.840.113619.4.27",  # GE Nuclear Medicine Storage
    "1.2.840.113619.4.30",  # GE Private Image Storage
    "1.2.840.113543.6.6.1.3.10002",  # Philips 3D Volume Storage
    "1.3.46.670589.2.3.1.1",  # Philips SPECT Storage
    "1.3.46.670589.5.0.1",  # Philips Private MR Specification Storage
    "1.3.46.670589.5.0.2",  # Philips Volume Storage
    "1.3.46.670589.5.0.3",  # Philips 3D Object Storage
    "1.3.46.670589.5.0.8",  # Philips Surface Storage
    "1.3.46.670589.5.0.10",  # Philips MR Series Data Storage
    "1.3.46.670589.11.0.0.12.1",  # Philips MR Spectrum Storage
    "1.3.46.670589.11.0.0.12.2",  # Philips MR Series Data Storage
    "1.3.46.670589.11.0.0.12.4",  # Philips MR Examcard Storage
)


def transfer_syntaxes() -> list[str]:
    """Return every transfer syntax of the standard, in the order of choice.

    Where a sender offers several in one context, uncompressed ones are chosen
    first: a sender is never made to compress what it holds uncompressed.
    """
    last = [DeflatedExplicitVRLittleEndian]
    compressed = [s for s in AllTransferSyntaxes if s not in (*UNCOMPRESSED, *last)]
    newer = (*sorted(JPEG_XL), DEFLATED_FRAMES)  # unknown to pydicom 3.0.2
    return [str(syntax) for syntax in (*UNCOMPRESSED, *compressed, *newer, *last)]


def storage_classes() -> list[str]:
    """Return all storage SOP classes: current, retired and known private ones."""
    current = {
        str(context.abstract_syntax) for context in AllStoragePresentationContexts
    }
    retired = {
        uid
        for uid, (name, kind, _, status, _) in UID_dictionary.items()
        if kind == "SOP Class" and status == "Retired" and "Storage" in name
        if not name.startswith(("Storage Commitment", "Media Storage"))
    }
    return sorted(current | retired | set(PRIVATE_STORAGE))


class Roles(NamedTuple):
    """The roles a requestor proposes for a SOP class (PS3.7 D.3.3.4)."""

    scu: bool
    scp: bool


NO_ROLES = Roles(scu=False, scp=False)


class Purpose(Enum):
    """What a node may associate for."""

    STORE = "store"
    RETRIEVE = "retrieve"
    """Find, move and get: with C-GET the node is the storage SCP."""
    REPORT = "report"
    """Report what it keeps of what it was sent: the node is the commitment SCP."""


@cache
def contexts_for(purposes: frozenset[Purpose]) -> list[PresentationContext]:
    """Return what is accepted from a node with these purposes; not to be changed.

    Storage classes carry the roles their requestor may take (PS3.7 D.3.3.4):
    SCU to store, SCP to be sent the objects of a C-GET.
    """
    stores, retrieves = Purpose.STORE in purposes, Purpose.RETRIEVE in purposes
    contexts = [build_context(VERIFICATION, list(UNCOMPRESSED))]
    if stores or retrieves:
        contexts += _storage_contexts()
    if retrieves:
        for context in contexts[1:]:
            context.scu_role, context.scp_role = stores, True
        models = sorted(FIND_MODELS | RETRIEVE_MODELS)
        contexts += [build_context(uid, list(UNCOMPRESSED)) for uid in models]
    if stores or Purpose.REPORT in purposes:
        # Whoever stores may ask; many that report propose no roles.
        commitment = build_context(STORAGE_COMMITMENT, list(UNCOMPRESSED[:2]))
        if Purpose.REPORT in purposes:
            commitment.scu_role, commitment.scp_role = True, True
        contexts.append(commitment)
    return contexts


def _storage_contexts() -> list[PresentationContext]:
    """Make one for each storage class; they share their transfer syntaxes.

    Each on its own would be 200 times 40 UIDs that pynetdicom checks: 80 ms that the
    first sender waits for.
    """
    first, *others = storage_classes()
    contexts = [build_context(first, transfer_syntaxes())]
    for uid in others:
        contexts.append(copy(contexts[0]))
        contexts[-1].abstract_syntax = UID(uid)
    return contexts


def contexts_in_roles(
    contexts: list[PresentationContext],
    roles: Mapping[str, Roles],
    sent_syntaxes: Iterable[tuple[str, str]],
) -> list[PresentationContext]:
    """Fit what a node may use to the roles it proposes.

    Left out is what could only be accepted in a role it does not propose. Where
    it only wants to be sent objects of a class, the syntaxes they have come
    first: what it does not accept as it is stored cannot be sent.

    Parameters
    ----------
    contexts
        What the node may use.
    roles
        What it proposes, by SOP class.
    sent_syntaxes
        SOP class and transfer syntax of what may be sent, most frequent first.
    """
    preferred: dict[str, list[str]] = {}
    for sop_class, syntax in sent_syntaxes:
        preferred.setdefault(sop_class, []).append(syntax)
    fitted = []
    for context in contexts:
        uid = str(context.abstract_syntax)
        role = roles.get(uid, NO_ROLES)
        if context.scu_role is False and not role.scp:
            continue
        if context.scp_role and role.scp and not role.scu and uid in preferred:
            fitted.append(_preferring(context, preferred[uid]))
        else:
            fitted.append(context)
    return fitted


def _preferring(context: PresentationContext, first: list[str]) -> PresentationContext:
    known = [str(syntax) for syntax in context.transfer_syntax]
    ordered = [syntax for syntax in first if syntax in known]
    changed = build_context(
        str(context.abstract_syntax), list(dict.fromkeys([*ordered, *known]))
    )
    changed.scu_role, changed.scp_role = context.scu_role, context.scp_role
    return changed
