"""What a site lets whom have: the one place that services ask.

Nothing here knows how somebody calls: the DICOM listener and HTTPS ask alike.
Every answer is given for now: grants are looked up at each call, so that a
revocation holds from the next object on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Select

from config.schema import Grant, Site
from gateway.access.approvals import Approvals
from gateway.access.caller import Caller
from gateway.access.clock import Jump, TrustedClock
from gateway.access.evaluation import Evaluation, Rows
from gateway.access.grants import GrantBook, HeldGrant
from gateway.access.ledger import Books
from gateway.access.nodes import Nodes
from gateway.access.people import People
from gateway.access.requests import Approval, RecoveryRequest, Wanted
from gateway.audit.log import AuditLog
from gateway.errors import ApprovalNeeded, ApprovalRefused
from gateway.store.clock import utc_now
from gateway.store.find import (
    ORIGINALS,
    FindKeys,
    Level,
    find_statement,
    studies_concerned,
)
from gateway.store.index import Index
from gateway.store.rows import Instance

LOG = structlog.get_logger(component="access")

Chosen = Callable[[HeldGrant], bool]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """The originals that keys select.

    Attributes
    ----------
    granted
        Those that a grant admits, in a stable order.
    outside
        How many there are beside: for the trail, never for who asks.
    """

    granted: list[Instance]
    outside: int


class Granted:
    """The originals that somebody may see, or have sent to one place.

    Made by `Access`. It keeps no permission: each call asks what holds then.

    Parameters
    ----------
    access
        Whose grants.
    index
        Where originals are found.
    chosen
        Which grants count.
    """

    def __init__(self, access: Access, index: Index, chosen: Chosen) -> None:
        self._access = access
        self._index = index
        self._chosen = chosen
        self._evaluation = Evaluation(())

    @property
    def is_empty(self) -> bool:
        """Whether no grant holds."""
        return self._now().is_empty

    @property
    def is_unrestricted(self) -> bool:
        """Whether a grant holds for every original."""
        return self._now().is_unrestricted

    def find(self, keys: FindKeys, level: Level) -> Rows:
        """Answer a query as `Index.find_originals`, of what is granted only.

        Objects outside are as if they were not there, in counts and lists, too.
        """
        evaluation = self._now()
        if evaluation.is_empty:
            return []
        if evaluation.is_unrestricted:
            return self._index.find_originals(keys, level)
        database = self._index.database
        with database.read() as connection:  # one snapshot for decision and answer

            def run(statement: Select[Any]) -> Rows:
                return [dict(row) for row in connection.execute(statement).mappings()]

            concerned = studies_concerned(keys, level)
            only = evaluation.condition(run, concerned, database.engine.dialect.name)
            return find_statement(keys, level, ORIGINALS, only).rows(run)

    def matching(self, keys: FindKeys) -> Matching:
        """Return the originals that keys select, of what is granted only."""
        evaluation = self._now()
        rows = self._index.originals_matching(keys)
        admitted = self._decide(evaluation, rows)
        granted = [row for row, yes in zip(rows, admitted, strict=True) if yes]
        return Matching(granted=granted, outside=len(rows) - len(granted))

    def admits(self, row: Instance) -> bool:
        """Whether a grant admits an original now; ask before each one leaves."""
        return self._decide(self._now(), [row])[0]

    def _decide(self, evaluation: Evaluation, rows: Sequence[Instance]) -> list[bool]:
        if evaluation.is_empty:
            return [False] * len(rows)
        database = self._index.database

        def run(statement: Select[Any]) -> Rows:
            with database.read() as connection:
                return [dict(row) for row in connection.execute(statement).mappings()]

        return evaluation.admits_all(rows, run, database.engine.dialect.name)

    def _now(self) -> Evaluation:
        """Return what holds now; the same as before keeps what it has decided."""
        held = self._access.holding(self._chosen)
        if held != self._evaluation.held:
            self._evaluation = Evaluation(held)
        return self._evaluation


class Access:
    """Grants, approvals and the clock they hold by.

    Parameters
    ----------
    site
        The settings.
    index
        Where originals are found; its database holds the tables.
    books
        Those tables, authenticated.
    audit
        Where changes, refusals and jumps of the clock are recorded.
    wall, monotonic
        The machine's clocks.
    """

    def __init__(
        self,
        *,
        site: Site,
        index: Index,
        books: Books,
        audit: AuditLog,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._index = index
        self._books = books
        self._audit = audit
        self._grants = GrantBook(site)
        self.nodes = Nodes(site.nodes)
        """Which machine somebody is, by certificate."""
        self.people = People(site.people)
        """Who works at this site, by certificate."""
        self._approvals = Approvals(site, self.people)
        self._clock = TrustedClock(books, wall, monotonic, self._note_jump)

    @property
    def clock(self) -> TrustedClock:
        """The clock that grants hold by."""
        return self._clock

    # What services ask

    def listed(self, caller: Caller) -> Granted:
        """Return what a node may see in answers to queries: under any grant."""
        return Granted(self, self._index, lambda held: held.is_for(caller))

    def given(self, caller: Caller) -> Granted:
        """Return what a node may have itself: C-GET, or over HTTPS."""
        return Granted(
            self,
            self._index,
            lambda held: held.is_for(caller) and held.is_to_itself(caller),
        )

    def moved(self, caller: Caller, destination: str) -> Granted:
        """Return what a node may have sent to an AE title."""
        return Granted(
            self,
            self._index,
            lambda held: held.is_for(caller) and held.is_to(caller, destination),
        )

    def may_move(self, caller: Caller, destination: str) -> bool:
        """Whether any grant lets a node have originals sent to an AE title."""
        return not self.moved(caller, destination).is_empty

    def release(
        self, caller: Caller, objects: Sequence[Instance], destination: str = ""
    ) -> None:
        """Count originals as given, before the first of them leaves.

        Parameters
        ----------
        caller
            Who asked.
        objects
            All that one request selects.
        destination
            AE title they are sent to; empty: to who asked.

        Raises
        ------
        ApprovalNeeded
            They are too many without two people's approval; recorded.
        """
        if not self._approvals.limited or not objects:
            return
        now = self._clock.now()
        wanted = Wanted(caller=caller, destination=destination, objects=objects)
        with self._books.changing() as change:
            needed, used = self._approvals.release(change, wanted, now)
            if needed is not None or used:
                self._audit.record(
                    "approval-needed" if needed else "approval-used",
                    "refused" if needed else "success",
                    approval=needed or used,
                    node=caller.node.name,
                    calling_ae=caller.ae_title,
                    peer_address=caller.address,
                    user=caller.user,
                    destination=destination,
                    instances=len(objects),
                    studies=wanted.studies,
                )
        if needed is not None:
            raise ApprovalNeeded(needed, f"Two people must approve request {needed}")

    def tick(self) -> None:
        """Note the time; called now and then where nobody asks for anything."""
        self._clock.now()

    # What people change

    def grants(self) -> tuple[tuple[HeldGrant, ...], datetime]:
        """Return all grants there are or were, and the time they hold by."""
        with self._books.reading() as view:
            mark, found = view.clock(), self._grants.all(view)
        return found, self._clock.at(mark)

    def add_grant(self, grant: Grant, who: str) -> None:
        """Add a grant; it holds from now on, in every process of the site.

        Raises
        ------
        GrantRefused
            It cannot be added; the message says why.
        """
        now = self._clock.now()
        with self._books.changing() as change:
            self._grants.add(change, grant, who, now)
            self._audit.record(
                "grant-add",
                "success",
                who=who,
                grant=grant.name,
                nodes=list(grant.nodes),
                destinations=list(grant.move_destinations),
                users=list(grant.users),
                until=grant.until.isoformat() if grant.until is not None else None,
            )

    def revoke_grant(self, name: str, who: str, reason: str) -> None:
        """Revoke a grant, a configured one, too; from the next object on.

        Raises
        ------
        GrantRefused
            There is none, or it was revoked before.
        """
        now = self._clock.now()
        with self._books.changing() as change:
            self._grants.revoke(change, name, who, reason, now)
            self._audit.record(
                "grant-revoke", "success", who=who, grant=name, reason=reason
            )

    def requests(self) -> tuple[list[RecoveryRequest], datetime]:
        """Return all requests for approval, oldest first, and the time."""
        with self._books.reading("approvals") as view:
            mark, found = view.clock(), list(self._approvals.all(view).values())
        return found, self._clock.at(mark)

    def approvers(self, request: RecoveryRequest, now: datetime) -> frozenset[str]:
        """Return whose approvals of a request hold."""
        return self._approvals.approvers(request, now)

    def approve(self, id: str, given: Approval, who: str) -> RecoveryRequest:
        """Record a person's approval of a request.

        Parameters
        ----------
        id
            Of the request.
        given
            Person, certificate and signature.
        who
            At whose hands it came, for the trail.

        Raises
        ------
        ApprovalRefused
            It does not count; the message says why. Audited.
        """
        now = self._clock.now()
        fields = {"approval": id, "person": given.person, "who": who}
        try:
            with self._books.changing() as change:
                request = self._approvals.approve(change, id, given, now)
                self._audit.record("approve", "success", **fields)
        except ApprovalRefused:
            self._audit.note("approve", "refused", **fields)
            raise
        return request

    def reset_clock(self, who: str, reason: str) -> datetime:
        """Take the machine's time as right, after a wrong jump forward."""
        moment = self._clock.reset(who, reason)
        self._audit.record(
            "clock-reset", "success", who=who, reason=reason, to=moment.isoformat()
        )
        return moment

    def accept_tables(self, who: str, reason: str) -> dict[str, int]:
        """Take the tables as they are, after a restore; return their row counts.

        Raises
        ------
        AccessTampered
            A row was altered.
        """
        counts = self._books.accept()
        self._audit.record("access-accept", "success", who=who, reason=reason, **counts)
        return counts

    def holding(self, chosen: Chosen) -> tuple[HeldGrant, ...]:
        """Return the grants that hold now, of those that are chosen."""
        found, now = self.grants()
        return tuple(h for h in found if h.state(now) == "active" and chosen(h))

    def _note_jump(self, jump: Jump) -> None:
        self._audit.note(
            "clock-jump",
            "failure",
            direction=jump.direction,
            seconds=jump.seconds,
            stopped=jump.stopped,
        )
