"""Deliver what is planned: one attempt for one revision and destination.

Protected and original objects have a function each. The one that serves
``protect = true`` reads protected rows and protected files only; there is no
branch in it that could reach original bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from config.schema import Destination
from gateway.audit.log import AuditLog
from gateway.audit.personal import patients_of
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.sender import Results, SendResult, Verdict
from gateway.errors import (
    InvalidSeal,
    RecordMissing,
    StoredObjectDamaged,
    UnprotectedExport,
)
from gateway.log import get_logger
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Delivery, Instance, PartOutcome, Protected
from gateway.vault.record import KeyRecord

Send = Callable[[Destination, Sequence[OutboundObject], str], Results]
MayGoOn = Callable[[], bool]


class Records(Protocol):
    """The part of the vault an export asks."""

    def get(self, protected_uid: str) -> KeyRecord:
        """Open the sealed record of a protected object, or raise."""


class Parcel(NamedTuple):
    """One delivery and the objects that are sent for it."""

    delivery: Delivery
    objects: Sequence[OutboundObject]


class Item(NamedTuple):
    """One object to be sent: its delivery, its part, and whether it is the last."""

    delivery: Delivery
    part_id: int
    outbound: OutboundObject
    last: bool


def always() -> bool:
    """Say that nothing stands against going on."""
    return True


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """Sends what is owed; the network is behind ``send``."""

    index: Index
    store: FileStore
    vault: Records
    audit: AuditLog
    destinations: Mapping[str, Destination]
    calling_ae: str
    send: Send

    def attempt(self, revision_id: int, name: str, may_go_on: MayGoOn = always) -> bool:
        """Send everything pending once, recording each result as it comes.

        Parameters
        ----------
        revision_id, name
            What, and to which destination.
        may_go_on
            Asked before every object; where it says no, the rest stays pending.

        Returns
        -------
        bool
            True when something is still pending and should be tried later.
        """
        pending = self.index.pending_deliveries(revision_id, name)
        destination = self.destinations.get(name)
        if destination is None:
            for delivery in pending:
                self._stop(delivery, f"no destination {name!r} is configured any more")
            return False
        protected = [delivery for delivery in pending if delivery.protect]
        originals = [delivery for delivery in pending if not delivery.protect]
        ready = self._protected_objects(protected)
        again = self._deliver(destination, ready, may_go_on)
        if originals and not destination.originals:
            for delivery in originals:
                self._stop(delivery, f"{name!r} does not take originals any more")
        elif originals:
            ready = self._original_objects(originals)
            again = self._deliver(destination, ready, may_go_on) or again
        return again

    def _protected_objects(self, deliveries: Sequence[Delivery]) -> list[Parcel]:
        """Return the protected objects owed; what does not verify is held."""
        ready = []
        for delivery in deliveries:
            try:
                rows = verified_protected(
                    self.index.protected_parts(
                        delivery.instance_id, delivery.treatment
                    ),
                    self.store,
                    self.vault,
                )
            except UnprotectedExport as error:
                self.index.hold_instance(
                    delivery.instance_id, "unprotected-export", str(error)
                )
                self._stop(delivery, str(error))
                continue
            objects = [
                OutboundObject(
                    sop_class_uid=row.sop_class_uid,
                    sop_instance_uid=row.sop_instance_uid,
                    transfer_syntax_uid=row.transfer_syntax_uid,
                    data=partial(self.store.open, row.path),
                )
                for row in rows
            ]
            ready.append(Parcel(delivery, objects))
        return ready

    def _original_objects(self, deliveries: Sequence[Delivery]) -> list[Parcel]:
        """Return the originals owed to a destination that may have them."""
        ready = []
        for delivery in deliveries:
            instance = self.index.instance_by_id(delivery.instance_id)
            why = _not_as_received(instance, self.store)
            if instance is None or why:
                self._stop(delivery, why)
                continue
            outbound = OutboundObject(
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=instance.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                data=partial(self.store.open, instance.path),
            )
            ready.append(Parcel(delivery, [outbound]))
        return ready

    def _deliver(
        self, destination: Destination, ready: Sequence[Parcel], may_go_on: MayGoOn
    ) -> bool:
        """Send what is not confirmed, and record each object before the next."""
        items = self._unconfirmed(ready)
        if not items:
            return False
        again = False
        objects = [item.outbound for item in items]
        with closing(self.send(destination, objects, self.calling_ae)) as results:
            for item in items:
                if not may_go_on():
                    return True
                result = next(results)
                self._record(destination, item, result)
                again = again or result.verdict is Verdict.TRANSIENT
        return again

    def _unconfirmed(self, ready: Sequence[Parcel]) -> list[Item]:
        """Return the objects that are still to be sent, in order.

        A part that was refused waits for a person as long as others of its
        delivery are tried again.
        """
        wanted = {
            parcel.delivery.id: [
                (outbound.sop_class_uid, outbound.sop_instance_uid)
                for outbound in parcel.objects
            ]
            for parcel in ready
        }
        planned = self.index.plan_parts(wanted) if wanted else {}
        items = []
        for parcel in ready:
            parts = planned[parcel.delivery.id]
            left = [
                (parts[outbound.sop_instance_uid].id, outbound)
                for outbound in parcel.objects
                if parts[outbound.sop_instance_uid].state == "pending"
            ]
            for part_id, outbound in left:
                last = part_id == left[-1][0]
                items.append(Item(parcel.delivery, part_id, outbound, last))
            if not left:
                self.index.settle_delivery(parcel.delivery.id)
        return items

    def _record(self, destination: Destination, item: Item, result: SendResult) -> None:
        """Record what became of an object."""
        if result.verdict is not Verdict.TRANSIENT:
            self._audit(destination, item.delivery, item.outbound, result)
        outcome = PartOutcome(
            state=_STATES[result.verdict],
            status=result.status,
            error=result.error,
            address=result.address,
            transfer_syntax_uid=result.transfer_syntax_uid,
            warned=result.verdict is Verdict.WARNED,
        )
        self.index.record_part(item.part_id, outcome, last=item.last)

    def _audit(
        self,
        destination: Destination,
        delivery: Delivery,
        outbound: OutboundObject,
        result: SendResult,
    ) -> None:
        original = self.index.instance_by_id(delivery.instance_id)
        self.audit.record(
            "export",
            "refused" if result.verdict is Verdict.REFUSED else "success",
            destination=destination.name,
            ae_title=result.address.partition("@")[0] or destination.ae_title,
            address=result.address,
            sop_instance_uid=outbound.sop_instance_uid,
            protect=delivery.protect,
            status=result.status,
            personal={"patients": patients_of([original] if original else [])},
        )

    def _stop(self, delivery: Delivery, why: str) -> None:
        """Park one delivery: our own check says that it must not go out."""
        self.index.record_delivery(delivery.id, "held", None, why)
        self.audit.record(
            "export",
            "failure",
            destination=delivery.destination,
            instance_id=delivery.instance_id,
            protect=delivery.protect,
            error=why,
        )
        get_logger("export").error(
            "export-held", delivery_id=delivery.id, destination=delivery.destination
        )


_STATES: Mapping[Verdict, str] = {
    Verdict.SENT: "sent",
    Verdict.WARNED: "sent",
    Verdict.TRANSIENT: "pending",
    Verdict.REFUSED: "refused",
}


def _not_as_received(instance: Instance | None, store: FileStore) -> str:
    """Say why the stored bytes of an original must not leave, or ''."""
    if instance is None or not store.exists(instance.path):
        return "the stored original is missing"
    try:
        found = store.digest(instance.path, data_set=True)
    except StoredObjectDamaged:
        return "the stored original is damaged"
    return "" if found == instance.sha256 else "the stored original is another one"


def verified_protected(
    rows: Sequence[Protected], store: FileStore, vault: Records
) -> Sequence[Protected]:
    """Return the rows of one treatment when files and sealed record are whole.

    Raises
    ------
    UnprotectedExport
        There is no protected object, the record is missing or does not open, is
        of other objects, or a file is not the one that was recorded.
    """
    if not rows:
        raise UnprotectedExport("there is no protected object for this instance")
    record = _record(rows[0], vault)
    if [row.sop_instance_uid for row in rows] != [part.uid for part in record.parts]:
        raise UnprotectedExport(
            f"{rows[0].sop_instance_uid}: its record is of other objects"
        )
    for row in rows:
        _check_file(row, store)
    return rows


def verified_part(row: Protected, store: FileStore, vault: Records) -> Protected:
    """Return one row when its file and the record it belongs to are whole.

    Raises
    ------
    UnprotectedExport
        As `verified_protected`.
    """
    _record(row, vault)
    _check_file(row, store)
    return row


def _record(row: Protected, vault: Records) -> KeyRecord:
    try:
        return vault.get(row.sop_instance_uid)
    except (RecordMissing, InvalidSeal) as error:
        raise UnprotectedExport(
            f"{row.sop_instance_uid}: no valid record: {error}"
        ) from error


def _check_file(row: Protected, store: FileStore) -> None:
    uid = row.sop_instance_uid
    try:
        found = store.digest(row.path)
    except StoredObjectDamaged as error:
        raise UnprotectedExport(f"{uid}: its file cannot be read") from error
    if found != row.sha256:
        raise UnprotectedExport(f"{uid}: its file was altered after protection")
