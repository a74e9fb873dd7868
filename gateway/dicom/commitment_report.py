"""Reports of storage commitment on new associations, until they are taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import build_role
from sqlalchemy.exc import SQLAlchemyError

from config.schema import Address, Site
from gateway.audit.log import AuditLog
from gateway.dicom.commitment_scp import Keeping
from gateway.dicom.commitment_talk import report_on
from gateway.dicom.contexts import STORAGE_COMMITMENT
from gateway.dicom.rawstore import sole_reader
from gateway.dicom.requestor import Requestor, Timeouts, open_association, peer_of
from gateway.errors import AssociationLost, GatewayError
from gateway.log import described
from gateway.store.clock import utc_now
from gateway.store.commitments import Report
from gateway.store.index import Index
from gateway.store.rows import CommitmentRequest
from gateway.tls.identity import TlsIdentity

LOG = structlog.get_logger(component="commitment")

LOOK_SECONDS: Final = 5.0
TOGETHER: Final = 4
LEASE_SECONDS: Final = 900.0
"""After it a request that a process took up and left is taken up again."""
FIRST_WAIT_SECONDS: Final = 15.0
LONGEST_WAIT_SECONDS: Final = 3600.0
CONTEXTS: Final = (
    (STORAGE_COMMITMENT, str(ExplicitVRLittleEndian)),
    (STORAGE_COMMITMENT, str(ImplicitVRLittleEndian)),
)


@dataclass(kw_only=True)
class Reporter:
    """Reports what nodes asked for; several processes may run one each.

    Attributes
    ----------
    site
        Whose nodes they are.
    index, audit, keeping
        What was asked, where lines go, what is kept.
    tls
        This side's identity; None: only nodes called without TLS are told.
    wake
        Set by who has something to be reported.
    clock
        Returns the present, aware.
    """

    site: Site
    index: Index
    audit: AuditLog
    keeping: Keeping
    tls: TlsIdentity | None
    wake: threading.Event
    clock: Callable[[], datetime] = utc_now
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Report in a thread, until `stop`."""
        self._thread = threading.Thread(
            target=self._run, name="CommitmentReporter", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it did not report is due again."""
        self._stopping.set()
        self.wake.set()
        if self._thread is not None:
            self._thread.join()

    def report_due(self) -> int:
        """Report what is due now; return how many were tried."""
        requests = self.index.claim_commitment_requests(TOGETHER, LEASE_SECONDS)
        for request in requests:
            if self._stopping.is_set():
                break
            self._report(request)
        return len(requests)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.wake.clear()
            try:
                tried = self.report_due()
            except (GatewayError, SQLAlchemyError, OSError) as error:
                LOG.warning("reports failed", error=described(error))
                tried = 0
            if not tried:
                self.wake.wait(LOOK_SECONDS)

    def _report(self, request: CommitmentRequest) -> None:
        node = next((n for n in self.site.nodes if n.name == request.node), None)
        try:
            if node is None or node.commitment is None:
                raise AssociationLost("it has no address for reports")
            report = self.keeping.report(request)
            self._send(node.commitment, report)
        except (GatewayError, OSError) as error:
            self._later(request, described(error))
            return
        self.index.record_commitment_report(request.id, "reported", "")
        self.audit.note(
            "commitment",
            "success",
            step="reported",
            node=request.node,
            ae_title=node.commitment.ae_title,
            transaction_uid=request.transaction_uid,
            kept=len(report.kept),
            failed=len(report.failed),
        )

    def _later(self, request: CommitmentRequest, why: str) -> None:
        hours = self.site.receiver.commitment_hours
        received = datetime.fromisoformat(request.received_at)
        over = self.clock() - received > timedelta(hours=hours)
        wait = min(
            FIRST_WAIT_SECONDS * 2.0 ** min(request.attempts, 30), LONGEST_WAIT_SECONDS
        )
        state = "given-up" if over else "waiting"
        self.index.record_commitment_report(request.id, state, why, wait)
        LOG.warning("report not taken", node=request.node, state=state, error=why)
        if over:
            self.audit.note(
                "commitment",
                "failure",
                step="given-up",
                node=request.node,
                transaction_uid=request.transaction_uid,
                error=why,
            )

    def _send(self, address: Address, report: Report) -> None:
        """Report on a new association, in the role of the provider (PS3.4 J.3.3).

        Raises
        ------
        GatewayError, OSError
            The node did not take it.
        """
        wait = self.site.receiver.network_timeout_seconds
        entity = Requestor(
            self.site.receiver.ae_title, Timeouts(answer=wait, idle=wait)
        )
        role = build_role(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
        peer = peer_of(address, self.tls)
        association = open_association(entity, peer, CONTEXTS, [role])
        try:
            if not association.is_established:
                raise AssociationLost(
                    f"{address.ae_title} cannot be reached, or takes no reports"
                )
            with sole_reader(association):
                report_on(association, report, wait)
        finally:
            with suppress(OSError):
                if association.is_established:
                    association.release()
            entity.close()
