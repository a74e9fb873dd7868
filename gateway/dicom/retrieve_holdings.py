"""What an AE title lists and gives: originals, or protected objects, never both.

Either way an object leaves only if its bytes are those that were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Protocol

from gateway.access.access import Access, Granted
from gateway.access.caller import Caller
from gateway.dicom.rawstore import OpenPart10, OutboundObject
from gateway.errors import NotGranted, ObjectGone, RecoveryRefused
from gateway.store.files import FileStore
from gateway.store.find import ORIGINALS, PROTECTED, FindKeys, Level
from gateway.store.index import Index
from gateway.store.octets import Joined, Octets, sha256_of, stream_of
from gateway.store.part10 import FileMeta, encode_head
from gateway.store.rows import Instance, Protected

Rows = list[dict[str, Any]]


class Restore(Protocol):
    """Rebuilds the received data set of a protected object."""

    def __call__(self, instance: Instance, protected: Protected, /) -> Octets:
        """Return the data set, verified; what is large is read as it is sent.

        Raises
        ------
        GatewayError
            They cannot be rebuilt exactly.
        """


class Verify(Protocol):
    """Checks that a protected object and its record are whole."""

    def __call__(self, protected: Protected, /) -> Protected:
        """Return the row.

        Raises
        ------
        GatewayError
            Its record does not open, or its file is not the one recorded.
        """


@dataclass(frozen=True, kw_only=True)
class Offered:
    """An object that a retrieval selects, not yet read.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid, study_instance_uid
        Of the object.
    patient_id, patient_name
        Of the object, for the audit trail.
    load
        Returns its data set, or what opens its file, verified; raises a
        GatewayError or OSError.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    patient_id: str
    patient_name: str
    load: Callable[[], bytes | OpenPart10]

    def outbound(self) -> OutboundObject:
        """Read and verify it.

        Raises
        ------
        GatewayError, OSError
            It is not what was recorded, or cannot be read.
        """
        return OutboundObject(
            sop_class_uid=self.sop_class_uid,
            sop_instance_uid=self.sop_instance_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            data=self.load(),
        )


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What a retrieval selects of what who asks may have.

    Attributes
    ----------
    items
        In a stable order.
    count_as_given
        Called before the first of them leaves; raises ApprovalNeeded where
        they may not leave like that.
    """

    items: Sequence[Offered]
    count_as_given: Callable[[], None]


class Holdings(Protocol):
    """What one AE title lists and gives."""

    def find(self, caller: Caller, keys: FindKeys, level: Level) -> Rows:
        """Return what matches, as ``Index.find_originals`` does."""

    def matching(self, caller: Caller, keys: FindKeys, destination: str) -> Selected:
        """Return the objects that keys select, for a C-MOVE destination.

        Parameters
        ----------
        caller
            Who asks.
        keys
            Of the request.
        destination
            AE title; empty: who asks.

        Raises
        ------
        NotGranted
            Who asks may have none of what is asked for.
        """

    def open(self, row: dict[str, Any]) -> BinaryIO:
        """Open the file of the first object of what was found.

        Raises
        ------
        StoredObjectDamaged
            It cannot be opened.
        """

    def syntaxes(self) -> list[tuple[str, str]]:
        """Return SOP classes with transfer syntaxes, the most frequent first."""


class Originals:
    """What was received, found by original and by protected UIDs, as granted."""

    def __init__(
        self, store: FileStore, index: Index, restore: Restore, access: Access
    ) -> None:
        self._store = store
        self._index = index
        self._restore = restore
        self._access = access

    def find(self, caller: Caller, keys: FindKeys, level: Level) -> Rows:
        """Return what matches among the originals that are granted."""
        return self._access.listed(caller).find(keys, level)

    def matching(self, caller: Caller, keys: FindKeys, destination: str) -> Selected:
        """Return the originals that keys select, of those that are granted.

        Whoever has no grant for everything hears the same of objects that are
        not here as of objects that are not granted.
        """
        granted = (
            self._access.moved(caller, destination)
            if destination
            else self._access.given(caller)
        )
        found = granted.matching(keys)
        if not found.granted and not granted.is_unrestricted:
            raise NotGranted("Nothing of this is granted", found.outside)
        return Selected(
            items=[
                _offered(instance, partial(self._load_granted, instance, granted))
                for instance in found.granted
            ],
            count_as_given=partial(
                self._access.release, caller, found.granted, destination
            ),
        )

    def open(self, row: dict[str, Any]) -> BinaryIO:
        """Open the file of a received object."""
        return self._store.open(row["path"])

    def syntaxes(self) -> list[tuple[str, str]]:
        """Return in what syntaxes objects were received."""
        return self._index.syntaxes_held(ORIGINALS)

    def _load_granted(self, instance: Instance, granted: Granted) -> bytes | OpenPart10:
        """Return what was received, if the grant still holds."""
        if not granted.admits(instance):
            raise NotGranted(f"{instance.sop_instance_uid} is not granted any more", 1)
        return self._load(instance)

    def _load(self, instance: Instance) -> bytes | OpenPart10:
        """Return what was received, verified.

        Raises
        ------
        RecoveryRefused
            They are not those whose digest was recorded.
        ObjectGone
            Retention took the file, and what would give it back.
        """
        protected = self._index.protected_kept(instance.id)
        if protected is None:
            if instance.gone_at is not None:
                raise _gone(instance)
            if self._store.digest(instance.path, data_set=True) != instance.sha256:
                raise _another(instance)
            return partial(self._store.open, instance.path)
        data_set = self._restore(instance, protected)
        if sha256_of(data_set) != instance.sha256:
            raise _another(instance)
        if isinstance(data_set, bytes):
            return data_set
        head = encode_head(
            FileMeta(
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
            )
        )
        return partial(stream_of, Joined([head, data_set]))


def _another(instance: Instance) -> RecoveryRefused:
    return RecoveryRefused(f"{instance.sop_instance_uid} is not what was received")


class ProtectedObjects:
    """What was made of the originals, found by its own UIDs only.

    No method here can reach a received object.
    """

    def __init__(self, store: FileStore, index: Index, verify: Verify) -> None:
        self._store = store
        self._index = index
        self._verify = verify

    def find(self, caller: Caller, keys: FindKeys, level: Level) -> Rows:
        """Return what matches among the protected objects."""
        del caller  # its role is enough
        return self._index.find_protected(keys, level)

    def matching(self, caller: Caller, keys: FindKeys, destination: str) -> Selected:
        """Return the protected objects that keys select."""
        del caller, destination  # its role is enough
        return Selected(
            items=[
                _offered(row, partial(self._load, row))
                for row in self._index.protected_matching(keys)
            ],
            count_as_given=lambda: None,
        )

    def open(self, row: dict[str, Any]) -> BinaryIO:
        """Open the file of a protected object."""
        return self._store.open(row["path"])

    def syntaxes(self) -> list[tuple[str, str]]:
        """Return in what syntaxes protected objects are."""
        return self._index.syntaxes_held(PROTECTED)

    def _load(self, row: Protected) -> OpenPart10:
        if row.gone_at is not None:
            raise _gone(row)
        return partial(self._store.open, self._verify(row).path)


def _gone(row: Instance | Protected) -> ObjectGone:
    return ObjectGone(
        f"{row.sop_instance_uid} is not kept any more: retention deleted it on "
        f"{(row.gone_at or '')[:10]}"
    )


def _offered(
    row: Instance | Protected, load: Callable[[], bytes | OpenPart10]
) -> Offered:
    return Offered(
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        study_instance_uid=row.study_instance_uid,
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        load=load,
    )
