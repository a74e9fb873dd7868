"""The presentation contexts of the two AE titles (PS3.4 B.5, C.6)."""

from __future__ import annotations

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import (
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

VERIFICATION = "1.2.840.10008.1.1"
PATIENT_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.1.1"
PATIENT_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.1.2"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
FIND_MODELS = frozenset({PATIENT_ROOT_FIND, STUDY_ROOT_FIND})
MOVE_MODELS = frozenset({PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE})
PATIENT_ROOT_MODELS = frozenset({PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE})

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
    return [str(syntax) for syntax in (*UNCOMPRESSED, *compressed, *last)]


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


def storage_contexts() -> list[PresentationContext]:
    """Return what the storage SCP accepts."""
    syntaxes = transfer_syntaxes()
    contexts = [build_context(uid, syntaxes) for uid in storage_classes()]
    return [build_context(VERIFICATION, list(UNCOMPRESSED)), *contexts]


def recovery_contexts() -> list[PresentationContext]:
    """Return what the query/retrieve SCP accepts."""
    classes = (VERIFICATION, *sorted(FIND_MODELS), *sorted(MOVE_MODELS))
    return [build_context(uid, list(UNCOMPRESSED)) for uid in classes]
