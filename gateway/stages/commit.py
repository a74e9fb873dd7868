"""Ask destinations to commit to what they were sent: one revision, one destination.

Their reports come when they like: on the association of the request, or to the
receiver. So an attempt only asks; what was not reported in time is found again by
the worker's round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol
from uuid import uuid4

from config.schema import Address, Destination
from gateway.audit.log import AuditLog
from gateway.dicom.commitment_scu import Answer, Take
from gateway.dicom.sender import describe_address
from gateway.log import get_logger
from gateway.stages.export import MayGoOn, always
from gateway.store.commitments import Report
from gateway.store.index import Index
from gateway.store.rows import DeliveryPart

MOST_OBJECTS: Final = 1000
"""Of one request."""


class Ask(Protocol):
    """The network, as `CommitmentUser.ask` is it."""

    def __call__(
        self,
        address: Address,
        transaction_uid: str,
        objects: Sequence[tuple[str, str]],
        take: Take,
        timeout_seconds: float,
    ) -> Answer:
        """Ask for commitment."""


def new_transaction() -> str:
    """Return a UID that nobody used before (PS3.5 B.2)."""
    return f"2.25.{uuid4().int}"


@dataclass(frozen=True, kw_only=True)
class Committer:
    """Asks for commitment; the network is behind ``ask``."""

    index: Index
    audit: AuditLog
    destinations: Mapping[str, Destination]
    ask: Ask
    new_transaction: Callable[[], str] = new_transaction

    def due(self) -> list[tuple[int, str]]:
        """Return the revisions and destinations with something to ask for now."""
        names = [name for name, d in self.destinations.items() if d.commitment]
        return self.index.due_commitments(names) if names else []

    def attempt(self, revision_id: int, name: str, may_go_on: MayGoOn = always) -> bool:
        """Ask for everything that is sent and of which nobody is asked.

        Returns
        -------
        bool
            True when a request was not taken, and should be made later.
        """
        destination = self.destinations.get(name)
        if destination is None or not destination.commitment:
            return False
        again = False
        parts = self.index.parts_to_commit(revision_id, name)
        for address, some in _by_address(destination, parts):
            if not may_go_on():
                return True
            again = self._ask(destination, address, some) or again
        return again

    def _ask(
        self, destination: Destination, address: Address, parts: Sequence[DeliveryPart]
    ) -> bool:
        uid = self.new_transaction()
        noted = self.index.begin_commitment(uid, destination.name, parts)
        answer = self.ask(
            address,
            uid,
            [(part.sop_class_uid, part.sop_instance_uid) for part in parts],
            partial(self._take, destination),
            destination.timeout_seconds,
        )
        self.audit.record(
            "commitment",
            "success" if answer.taken else "refused",
            step="request",
            destination=destination.name,
            ae_title=address.ae_title,
            transaction_uid=uid,
            objects=len(parts),
            error=answer.error,
        )
        if answer.taken:
            self.index.asked_commitment(noted, destination.commitment_hours)
            return False
        get_logger("commit").warning(
            "commitment-not-asked",
            destination=destination.name,
            later=answer.passing,
        )
        self.index.failed_commitment(noted, "" if answer.passing else answer.error)
        return answer.passing

    def _take(self, destination: Destination, report: Report) -> bool:
        """Take a report that came on the association of the request."""
        effect = self.index.report_commitment(report, [destination.name])
        if effect is None:
            return False
        self.audit.record(
            "commitment",
            "success",
            step="report",
            destination=effect.destination,
            committed=effect.committed,
            again=effect.again,
            held=effect.held,
            strangers=effect.strangers,
        )
        return True


def _by_address(
    destination: Destination, parts: Sequence[DeliveryPart]
) -> Iterator[tuple[Address, Sequence[DeliveryPart]]]:
    """Yield whom to ask for which objects: the address that took them."""
    known = {describe_address(one): one for one in destination.addresses}
    grouped: dict[str, list[DeliveryPart]] = {}
    for part in parts:
        grouped.setdefault(part.address, []).append(part)
    for place, some in grouped.items():
        address = destination.commitment_at or known.get(place, destination)
        for start in range(0, len(some), MOST_OBJECTS):
            yield address, some[start : start + MOST_OBJECTS]
