"""Who may associate: AE titles and addresses, decided before anything else."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Protocol

import structlog

from config.schema import Network
from gateway.audit.log import AuditLog
from gateway.dicom.contexts import Purpose
from gateway.dicom.status import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    Rejection,
)

LOG = structlog.get_logger(component="admission")


class Caller(Protocol):
    """A node of the configuration that may call."""

    @property
    def ae_title(self) -> str:
        """Its calling AE title."""

    @property
    def addresses(self) -> tuple[Network, ...]:
        """The networks it calls from."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """An association request: the titles it names and where it comes from."""

    calling_ae: str
    called_ae: str
    peer_address: str


class Active(Protocol):
    """An association that counts while it is alive."""

    is_released: bool
    is_aborted: bool
    is_rejected: bool

    def is_alive(self) -> bool:
        """Whether its thread runs."""


class Admission:
    """Decides on association requests of one AE title.

    Parameters
    ----------
    service
        Name for the audit trail: ``receive`` or ``recover``.
    called_ae
        The AE title that must be called.
    callers
        Who may call, by purpose; none: nobody.
    max_associations
        At the same time.
    audit
        Where refusals are recorded.
    """

    def __init__(
        self,
        *,
        service: str,
        called_ae: str,
        callers: Mapping[Purpose, Sequence[Caller]],
        max_associations: int,
        audit: AuditLog,
    ) -> None:
        self._service = service
        self._called_ae = called_ae
        self._callers = {purpose: tuple(nodes) for purpose, nodes in callers.items()}
        self._max_associations = max_associations
        self._audit = audit
        self._lock = threading.Lock()
        self._admitted: list[Active] = []
        self._closed = False

    @property
    def called_ae(self) -> str:
        """The AE title of this service."""
        return self._called_ae

    @property
    def max_associations(self) -> int:
        """How many there may be at the same time."""
        return self._max_associations

    @property
    def offered(self) -> frozenset[Purpose]:
        """What this service is for."""
        return frozenset(self._callers)

    def purposes(self, call: Call) -> frozenset[Purpose]:
        """Return what the node that calls may do; nothing where it is none."""
        return frozenset(
            purpose
            for purpose, nodes in self._callers.items()
            if any(_is_caller(node, call) for node in nodes)
        )

    def admit(self, call: Call, association: Active) -> Rejection | None:
        """Admit an association or say how it is rejected; refusals are audited."""
        rejection = self._decide(call, association)
        if rejection is not None:
            LOG.warning(
                "association refused",
                service=self._service,
                calling_ae=call.calling_ae,
                called_ae=call.called_ae,
                peer_address=call.peer_address,
                rejection=list(rejection),
            )
            self._audit.note(
                "association",
                "refused",
                service=self._service,
                calling_ae=call.calling_ae,
                called_ae=call.called_ae,
                peer_address=call.peer_address,
                result=rejection.result,
                source=rejection.source,
                reason=rejection.reason,
            )
        return rejection

    def note_declined(self, call: Call, sop_classes: Sequence[str]) -> None:
        """Audit what a node proposed that is here, but not for it."""
        LOG.warning(
            "contexts refused", service=self._service, calling_ae=call.calling_ae
        )
        self._audit.note(
            "contexts",
            "refused",
            service=self._service,
            calling_ae=call.calling_ae,
            called_ae=call.called_ae,
            peer_address=call.peer_address,
            sop_classes=list(sop_classes),
        )

    def close(self) -> None:
        """Admit no one any more."""
        with self._lock:
            self._closed = True

    def _decide(self, call: Call, association: Active) -> Rejection | None:
        if call.called_ae != self._called_ae:
            return CALLED_AE_NOT_RECOGNISED
        if not self.purposes(call):
            return CALLING_AE_NOT_RECOGNISED
        with self._lock:
            self._admitted = [a for a in self._admitted if _is_active(a)]
            if self._closed or len(self._admitted) >= self._max_associations:
                return LOCAL_LIMIT_EXCEEDED
            self._admitted.append(association)
        return None


def _is_active(association: Active) -> bool:
    ended = association.is_released or association.is_aborted
    return association.is_alive() and not ended


def _is_caller(caller: Caller, call: Call) -> bool:
    """Whether title and address are those of one configured node."""
    if caller.ae_title != call.calling_ae:
        return False
    address = ip_address(call.peer_address.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in caller.addresses)
