"""Who may associate: nodes and their roles, decided before anything else."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from config.schema import Node, Receiver, Role
from gateway.access.caller import Caller
from gateway.access.nodes import Nodes
from gateway.audit.who import who
from gateway.dicom.connections import Guard
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

TOO_MANY: Final = "too-many-associations"
TOO_MANY_OF_NODE: Final = "too-many-associations-of-node"


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


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How many associations one AE title has at the same time.

    Attributes
    ----------
    total
        Over all receiving processes.
    of_node
        Of one node, so that none ever takes all places.
    """

    total: int
    of_node: int

    @classmethod
    def of(cls, settings: Receiver) -> Bounds:
        """Return those of the settings; a node has half of them if not set."""
        total = settings.max_associations
        of_node = settings.max_associations_per_node or (total + 1) // 2
        return cls(total=total, of_node=of_node)


class Active(Protocol):
    """An association that counts until it leaves, and is told who it is of."""

    admitted: Caller | None


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
    bounds
        How many at the same time.
    guard
        Where refusals are recorded, and what other processes count.
    """

    def __init__(
        self,
        *,
        service: str,
        called_ae: str,
        nodes: Nodes,
        roles: Mapping[Purpose, Role],
        bounds: Bounds,
        guard: Guard,
    ) -> None:
        self._service = service
        self._called_ae = called_ae
        self._nodes = nodes
        self._roles = dict(roles)
        self._bounds = bounds
        self._refusals = guard.refusals
        self._counts = guard.counts
        self._audit = guard.refusals.audit
        self._lock = threading.Lock()
        self._admitted: dict[Active, str] = {}
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

    def leave(self, association: Active) -> None:
        """Free the place of an association that is over; may be said again."""
        with self._lock:
            node = self._admitted.pop(association, None)
            if node is not None:
                self._counts.change(self._service, -1)
                self._counts.change(self._key(node), -1)

    def _why_no_place(self, node: str) -> str | None:
        """Say why there is no place for one more, as it is counted everywhere."""
        if self._closed:
            return TOO_MANY
        total = len(self._admitted) + self._counts.elsewhere(self._service)
        if total >= self._bounds.total:
            return TOO_MANY
        here = sum(name == node for name in self._admitted.values())
        if here + self._counts.elsewhere(self._key(node)) >= self._bounds.of_node:
            return TOO_MANY_OF_NODE
        return None

    def _key(self, node: str) -> str:
        return f"{self._service} {node}"

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
        with self._lock, self._counts.alone():
            why_not = self._why_no_place(node.name)
            if why_not is not None:
                return LOCAL_LIMIT_EXCEEDED, why_not
            self._admitted[association] = node.name
            self._counts.change(self._service, 1)
            self._counts.change(self._key(node.name), 1)
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
