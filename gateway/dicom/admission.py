"""Who may associate: nodes and their roles, decided before anything else."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from config.schema import Node, Role
from gateway.access.caller import Caller
from gateway.access.nodes import Nodes
from gateway.audit.refusals import RefusalLog
from gateway.audit.who import who
from gateway.dicom.contexts import Purpose
from gateway.dicom.status import (
    CALLED_AE_NOT_RECOGNISED,
    CALLING_AE_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    NO_REASON_GIVEN,
    Rejection,
)
from gateway.dicom.user_identity import UserIdentity
from gateway.errors import NotIdentified
from gateway.tls.certificates import PeerCertificate

LOG = structlog.get_logger(component="admission")


@dataclass(frozen=True, kw_only=True)
class Call:
    """An association request: the titles it names and who makes it.

    Attributes
    ----------
    certificate
        The one the peer has shown; None without TLS.
    identity
        The user it names (PS3.7 D.3.3.7); None where it names none.
    """

    calling_ae: str
    called_ae: str
    peer_address: str
    certificate: PeerCertificate | None = None
    identity: UserIdentity | None = None


class Active(Protocol):
    """An association that counts while it is alive, and is told who it is of."""

    admitted: Caller | None
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
    nodes
        Those of the site.
    roles
        Which role a node needs, by purpose.
    max_associations
        At the same time.
    refusals
        Where refusals are recorded.
    """

    def __init__(
        self,
        *,
        service: str,
        called_ae: str,
        nodes: Nodes,
        roles: Mapping[Purpose, Role],
        max_associations: int,
        refusals: RefusalLog,
    ) -> None:
        self._service = service
        self._called_ae = called_ae
        self._nodes = nodes
        self._roles = dict(roles)
        self._max_associations = max_associations
        self._refusals = refusals
        self._audit = refusals.audit
        self._lock = threading.Lock()
        self._admitted: list[Active] = []
        self._closed = False

    @property
    def service(self) -> str:
        """Its name in the audit trail."""
        return self._service

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
        return frozenset(self._roles)

    def purposes(self, call: Call) -> frozenset[Purpose]:
        """Return what the node that calls may do; nothing where it is none."""
        try:
            node = self._node(call)
        except NotIdentified:
            return frozenset()
        return frozenset(p for p, role in self._roles.items() if role in node.roles)

    def admit(self, call: Call, association: Active) -> Rejection | None:
        """Admit an association or say how it is rejected; refusals are audited."""
        try:
            rejection, why = self._decide(call, association)
        except NotIdentified as error:
            rejection, why = CALLING_AE_NOT_RECOGNISED, error.reason
        if rejection is not None:
            self._note_refused(call, rejection, why)
        return rejection

    def _note_refused(self, call: Call, rejection: Rejection, why: str) -> None:
        whole = self._refusals.note(
            "association",
            call.peer_address,
            service=self._service,
            **{k: v for k, v in who(call).items() if k != "peer_address"},
            why=why,
            result=rejection.result,
            source=rejection.source,
            reason=rejection.reason,
        )
        if whole:
            LOG.warning(
                "association refused",
                service=self._service,
                calling_ae=call.calling_ae,
                called_ae=call.called_ae,
                peer_address=call.peer_address,
                why=why,
            )

    def note_declined(self, call: Call, sop_classes: Sequence[str]) -> None:
        """Audit what a node proposed that is here, but not for it."""
        LOG.warning(
            "contexts refused", service=self._service, calling_ae=call.calling_ae
        )
        self._audit.note(
            "contexts",
            "refused",
            service=self._service,
            **who(call),
            sop_classes=list(sop_classes),
        )

    def close(self) -> None:
        """Admit no one any more."""
        with self._lock:
            self._closed = True

    def _decide(self, call: Call, association: Active) -> tuple[Rejection | None, str]:
        if call.called_ae != self._called_ae:
            return CALLED_AE_NOT_RECOGNISED, "called-ae-title-unknown"
        node = self._node(call)
        if not set(node.roles) & set(self._roles.values()):
            return CALLING_AE_NOT_RECOGNISED, "no-role-here"
        identity = call.identity
        if identity is not None:
            why_not = identity.why_not(secure=call.certificate is not None)
            if why_not is not None:
                return NO_REASON_GIVEN, why_not
        with self._lock:
            self._admitted = [a for a in self._admitted if _is_active(a)]
            if self._closed or len(self._admitted) >= self._max_associations:
                return LOCAL_LIMIT_EXCEEDED, "too-many-associations"
            self._admitted.append(association)
        association.admitted = Caller(
            node=node,
            ae_title=call.calling_ae,
            address=call.peer_address,
            certificate=call.certificate,
            user=identity.name if identity is not None else None,
        )
        return None, ""

    def _node(self, call: Call) -> Node:
        return self._nodes.calling(call.calling_ae, call.peer_address, call.certificate)


def _is_active(association: Active) -> bool:
    ended = association.is_released or association.is_aborted
    return association.is_alive() and not ended
