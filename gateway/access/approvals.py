"""The two-person rule: many originals leave only when two people agree.

What was given to each node is counted in the database, so that neither a
restart nor a second receiver forgets it. Whose request would go beyond the
limit gets a number; two different people sign the request under that number
with their own keys, and then the same request passes once.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from config.schema import Site
from gateway.access.ledger import Change, Entry, View, recorded
from gateway.access.people import People
from gateway.access.requests import (
    APPROVE,
    MOST_STUDIES,
    NEEDED,
    REQUEST,
    USE,
    Approval,
    RecoveryRequest,
    Wanted,
    requests_of,
)
from gateway.access.signatures import read_certificate, shown_by, verify
from gateway.errors import ApprovalNeeded, ApprovalRefused

VALID_FOR: Final = timedelta(hours=24)
RELEASE: Final = "release"
MOST_OPEN: Final = 100
"""Requests of one node that wait at a time: more are refused unrecorded."""


class Approvals:
    """Counts what leaves, and holds back what needs approval.

    Parameters
    ----------
    site
        Its limit and window.
    people
        Who may approve.
    valid_for
        How long a request can be approved and used.
    """

    def __init__(
        self, site: Site, people: People, valid_for: timedelta = VALID_FOR
    ) -> None:
        self._site = site.name
        self._limit = site.recovery.two_person_above
        self._window = timedelta(minutes=site.recovery.two_person_window_minutes)
        self._people = people
        self._valid_for = valid_for
        self._seen: tuple[Entry, ...] | None = None
        self._requests: dict[str, RecoveryRequest] = {}

    @property
    def limited(self) -> bool:
        """Whether the site has such a limit."""
        return self._limit is not None

    def all(self, view: View) -> dict[str, RecoveryRequest]:
        """Return every request by its id, oldest first.

        Raises
        ------
        AccessTampered
            The table is not what was recorded.
        """
        entries = view.entries("approvals")
        seen, found = self._seen, self._requests
        if seen is not entries:
            found = requests_of(entries)
            self._requests, self._seen = found, entries
        return found

    def release(
        self, change: Change, wanted: Wanted, now: datetime
    ) -> tuple[str | None, str]:
        """Count what leaves now, or record that it needs approval.

        Returns
        -------
        tuple
            The id of the request it needs approval under, or None: it may leave.
            Then that of the request it leaves under, or ''.

        Raises
        ------
        ApprovalNeeded
            Too many requests of this node wait: this one was not recorded.
        """
        if self._limit is None:
            return None, ""
        given = self._given(change.entries("releases"), wanted, now)
        ids = {row.id for row in wanted.objects}
        used = ""
        if len(given | ids) > self._limit:
            same = [r for r in self.all(change).values() if r.is_of(wanted)]
            waiting = [r for r in same if r.is_open(now)]
            approved = [r for r in waiting if self._is_approved(r, now)]
            if not approved:
                return self._pending(change, waiting, wanted, now), ""
            used = approved[0].id
            change.append("approvals", USE, used, {}, recorded(now))
        body = {
            "destination": wanted.destination,
            "user": wanted.caller.user,
            "approval": used,
            "objects": sorted(ids),
        }
        name = wanted.caller.node.name
        change.append("releases", RELEASE, name, body, recorded(now))
        return None, used

    def approve(
        self, change: Change, id: str, given: Approval, now: datetime
    ) -> RecoveryRequest:
        """Record a person's signature under a request.

        Raises
        ------
        ApprovalRefused
            There is no such request, it has lapsed or was used, the person may
            not approve or has approved it before, or the signature is not theirs.
        """
        request = self.all(change).get(id)
        if request is None:
            raise ApprovalRefused(f"no request is named {id!r}")
        if not request.is_open(now):
            raise ApprovalRefused(f"request {id} has lapsed, or was used")
        self._verified(request, given, now)
        if any(given.person == before.person for before in request.approvals):
            raise ApprovalRefused(
                f"{given.person} has approved request {id} before; it needs another"
                " person"
            )
        body = {
            "person": given.person,
            "certificate": given.certificate,
            "signature": given.signature,
        }
        change.append("approvals", APPROVE, id, body, recorded(now))
        return request

    def approvers(self, request: RecoveryRequest, now: datetime) -> frozenset[str]:
        """Return whose signatures hold now, each person and certificate once."""
        by_certificate: dict[str, str] = {}
        for approval in request.approvals:
            try:
                mark = self._verified(request, approval, now)
            except ApprovalRefused:
                continue
            by_certificate.setdefault(mark, approval.person)
        return frozenset(by_certificate.values())

    def _is_approved(self, request: RecoveryRequest, now: datetime) -> bool:
        return len(self.approvers(request, now)) >= NEEDED

    def _verified(
        self, request: RecoveryRequest, given: Approval, now: datetime
    ) -> str:
        """Return the fingerprint of the certificate that signed; raise otherwise."""
        person = self._people.named(given.person)
        if person is None or "approver" not in person.roles:
            raise ApprovalRefused(f'{given.person!r} lacks the role "approver"')
        certificate = read_certificate(given.certificate, now)
        shown = shown_by(certificate)
        if not self._people.holds(given.person, shown):
            raise ApprovalRefused(
                f"the certificate is none of {given.person}'s in [[people]]"
            )
        verify(certificate, given.signature, request.signed)
        return shown.sha256

    def _given(
        self, entries: Sequence[Entry], wanted: Wanted, now: datetime
    ) -> set[int]:
        """Return what a node was given in the window, but for what was approved."""
        since = recorded(now - self._window)
        given: set[int] = set()
        for entry in reversed(entries):
            if entry.recorded_at <= since:
                break
            if entry.subject == wanted.caller.node.name and not entry.body["approval"]:
                given.update(entry.body["objects"])
        return given

    def _pending(
        self,
        change: Change,
        waiting: Sequence[RecoveryRequest],
        wanted: Wanted,
        now: datetime,
    ) -> str:
        if waiting:
            return waiting[0].id
        node = wanted.caller.node.name
        requests = self.all(change).values()
        is_open = [r for r in requests if r.content["node"] == node and r.is_open(now)]
        if len(is_open) >= MOST_OPEN:
            raise ApprovalNeeded("", "Too many requests wait for approval")
        name = secrets.token_hex(6)
        content = {
            **wanted.key,
            "id": name,
            "site": self._site,
            "studies": wanted.studies[:MOST_STUDIES],
            "requested_at": recorded(now),
            "until": recorded(now + self._valid_for),
        }
        change.append("approvals", REQUEST, name, content, recorded(now))
        return name
