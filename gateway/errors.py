"""Everything that can go wrong in the gateway, by name.

Messages never carry a patient attribute: UIDs, AE titles and paths only.
"""

from __future__ import annotations

from pathlib import Path

from config.errors import ConfigurationError

__all__ = [
    "AccessTampered",
    "ApprovalNeeded",
    "ApprovalRefused",
    "AssociationLost",
    "AuditBroken",
    "AuthorityRefused",
    "BackupRefused",
    "BadRequest",
    "CommitmentRefused",
    "ConfigurationError",
    "GatewayError",
    "GrantRefused",
    "HandshakeFailed",
    "IdentifierMismatch",
    "InvalidObject",
    "InvalidPdu",
    "InvalidQuery",
    "InvalidSeal",
    "InvalidUid",
    "KeyErased",
    "KeyInUse",
    "KeyNotEnclosed",
    "KeyUnavailable",
    "MoveNotAuthorised",
    "NoPresentationContext",
    "NotGranted",
    "NotIdentified",
    "ObjectConflict",
    "ObjectGone",
    "ObjectTooLarge",
    "PassphraseMissing",
    "PrivateKeyRefused",
    "RecordMissing",
    "RecoveryRefused",
    "RequestRefused",
    "StoreFull",
    "StoreUnavailable",
    "StoredObjectDamaged",
    "TooManyMatches",
    "TranscodingRefused",
    "UnknownDestination",
    "Unprotectable",
    "UnprotectedExport",
    "UnresolvedReferences",
    "UnsupportedObject",
]


class GatewayError(Exception):
    """The gateway could not do what was asked."""


class InvalidObject(GatewayError):
    """Received bytes are not a DICOM data set the gateway can identify."""


class CommitmentRefused(GatewayError):
    """A message of storage commitment is not what it should be.

    Attributes
    ----------
    status
        Of the response (PS3.7 C.5).
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class TranscodingRefused(GatewayError):
    """An object cannot be written in another transfer syntax without a change."""


class InvalidPdu(GatewayError):
    """A peer sent what is no PDU, or one above a limit (PS3.8 9.3)."""


class Unprotectable(GatewayError):
    """An object cannot be protected and is held; ``reason`` is a stable code.

    Attributes
    ----------
    reason
        Short code for tables and logs: ``no-pixel-data``, ``short-pixel-data``,
        ``unknown-transfer-syntax``, ``missing-attribute``, ``too-small``,
        ``too-many-frames``, ``undecodable``, ``unsupported-pixels``,
        ``no-placement``, ``not-fooled``, ``unreadable``, ``unsupported-object``,
        ``unresolved-references``, ``not-deidentifiable``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnresolvedReferences(Unprotectable):
    """An object refers to originals that no protected object stands for.

    Its ``reason`` is ``unresolved-references``.
    """

    def __init__(self, message: str) -> None:
        super().__init__("unresolved-references", message)


class StoreFull(GatewayError):
    """The disk has no room: nothing was stored."""


class StoreUnavailable(GatewayError):
    """The object store does not answer, or refuses: nothing was stored or read."""


class InvalidUid(InvalidObject):
    """A C-STORE request names a SOP Instance UID that is none."""


class UnsupportedObject(GatewayError):
    """A SOP class that was not negotiated for this context."""


class ObjectConflict(GatewayError):
    """Other bytes are stored under the same UID; these are kept aside."""


class ObjectGone(GatewayError):
    """What is asked for is no longer kept: retention has deleted it."""


class ObjectTooLarge(GatewayError):
    """An object is larger than this site accepts: nothing was stored."""


class IdentifierMismatch(InvalidObject):
    """The data set identifies another object than the C-STORE request does."""


class StoredObjectDamaged(GatewayError):
    """A file of the store is missing or is not what the index says."""


class NoPresentationContext(GatewayError):
    """The peer accepts no presentation context for this object."""


class AssociationLost(GatewayError):
    """An association ended, or its peer did not answer in time."""


class HandshakeFailed(GatewayError):
    """A TLS connection was not made; ``reason`` is a stable code.

    Attributes
    ----------
    reason
        Short code for logs and the audit trail: ``no-certificate``,
        ``unknown-authority``, ``certificate-expired``, ``certificate-revoked``,
        ``not-tls``, ``version-too-old``, ``handshake-timeout``, ``peer-left``, ...
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class InvalidSeal(GatewayError):
    """A sealed record does not open: wrong key, wrong object, or altered."""


class RecordMissing(GatewayError):
    """The vault holds no record for this object."""


class KeyErased(RecordMissing):
    """The key of an object was erased: its original cannot be had any more."""


class KeyInUse(GatewayError):
    """A master key cannot go: something is still sealed under it."""


class BackupRefused(GatewayError):
    """A backup of a master key cannot be made, or does not give the key back."""


class KeyNotEnclosed(GatewayError):
    """A protected object carries no key for recipients."""


class KeyUnavailable(GatewayError):
    """A master key cannot be used now: its file or token is gone, or is not itself."""


class PrivateKeyRefused(GatewayError):
    """A file is no private key, or no certificate, that can open an enclosed key."""


class PassphraseMissing(PrivateKeyRefused):
    """A private key is encrypted and its passphrase was not given, or is wrong."""


class RecoveryRefused(GatewayError):
    """What was rebuilt is not the original: nothing is handed out."""


class UnprotectedExport(GatewayError):
    """An export for a protected route met an object without a valid record."""


class AuditBroken(GatewayError):
    """The audit trail was altered or is cut; the message names file and line.

    Attributes
    ----------
    path, line
        The file and the number of the first line that is not what was written,
        where known.
    """

    def __init__(
        self, message: str, path: Path | None = None, line: int | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.line = line


class AuthorityRefused(GatewayError):
    """A site's authority does not do what was asked; the message says why."""


class InvalidQuery(GatewayError):
    """A C-FIND or C-MOVE identifier asks for what its model does not have."""


class UnknownDestination(GatewayError):
    """A C-MOVE names a destination that is not configured."""


class NotIdentified(GatewayError):
    """Who calls is none of the nodes of this site.

    Attributes
    ----------
    reason
        Stable code: ``ae-title-unknown``, ``ae-title-not-of-certificate``,
        ``certificate-not-registered``, ``address-not-allowed``, ``tls-required``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a node of this site: {reason}")
        self.reason = reason


class MoveNotAuthorised(GatewayError):
    """A node asks to have originals sent where it may not."""


class TooManyMatches(GatewayError):
    """A C-MOVE selects more objects than its responses can count."""


class RequestRefused(GatewayError):
    """An HTTP request is not answered as asked.

    Attributes
    ----------
    status
        HTTP status code, 400 to 599.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BadRequest(RequestRefused):
    """An HTTP request cannot be understood."""

    def __init__(self, message: str) -> None:
        super().__init__(400, message)


class NotGranted(GatewayError):
    """No grant covers what a node asks for.

    Attributes
    ----------
    outside
        How many objects it asked for that are here: for the trail.
    """

    def __init__(self, message: str, outside: int = 0) -> None:
        super().__init__(message)
        self.outside = outside


class GrantRefused(GatewayError):
    """A grant cannot be added or revoked as asked; the message says why."""


class AccessTampered(GatewayError):
    """The tables of grants are not what was recorded: nothing is granted."""


class ApprovalNeeded(GatewayError):
    """So many originals leave only when two people have approved it.

    Attributes
    ----------
    approval
        Under which the request was recorded; empty where it was not.
    """

    def __init__(self, approval: str, message: str) -> None:
        super().__init__(message)
        self.approval = approval


class ApprovalRefused(GatewayError):
    """An approval is not accepted; the message says why."""
