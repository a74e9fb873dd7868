"""Requests for many originals, and what two people have said to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final

from gateway.access.caller import Caller
from gateway.access.clock import parsed
from gateway.access.ledger import Entry, Json, canonical
from gateway.store.rows import Instance

REQUEST: Final = "request"
APPROVE: Final = "approve"
USE: Final = "use"
NEEDED: Final = 2
SIGNED_AS: Final = b"miad-gateway approval of a recovery\n"
MOST_STUDIES: Final = 100  # listed for people to read; the digest covers all


@dataclass(frozen=True, kw_only=True)
class Approval:
    """One person's signature under a request."""

    at: str
    person: str
    certificate: str
    """PEM."""
    signature: str
    """In base64."""


@dataclass(frozen=True, kw_only=True)
class RecoveryRequest:
    """A request that needs approval.

    Attributes
    ----------
    content
        What people sign: ``id``, ``site``, ``node``, ``user``, ``destination``,
        ``objects`` (how many), ``digest`` (of which), ``studies``,
        ``requested_at``, ``until``.
    approvals
        In the order they were given.
    used
        Whether the objects have left under it: it passes once.
    """

    content: Mapping[str, Json]
    approvals: tuple[Approval, ...] = ()
    used: bool = False

    @property
    def id(self) -> str:
        """How people name it."""
        return str(self.content["id"])

    @property
    def until(self) -> datetime:
        """When it lapses."""
        return parsed(self.content["until"])

    @property
    def signed(self) -> bytes:
        """The octets that people sign."""
        return SIGNED_AS + canonical(self.content).encode()

    def is_open(self, now: datetime) -> bool:
        """Whether it can still be approved and used."""
        return not self.used and now < self.until

    def is_of(self, wanted: Wanted) -> bool:
        """Whether it is a request for exactly these objects, by the same."""
        return all(self.content[k] == v for k, v in wanted.key.items())


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The originals that somebody asks for at once.

    Attributes
    ----------
    caller
        Who asks.
    destination
        AE title they would be sent to; empty: to who asks.
    objects
        Rows of the index.
    """

    caller: Caller
    destination: str
    objects: Sequence[Instance]

    @cached_property
    def key(self) -> Mapping[str, Json]:
        """What makes two requests the same."""
        return {
            "node": self.caller.node.name,
            "user": self.caller.user,
            "destination": self.destination,
            "objects": len(self.objects),
            "digest": self.digest,
        }

    @property
    def digest(self) -> str:
        """SHA-256 over the UIDs and digests of the objects, in their order."""
        lines = sorted(f"{row.sop_instance_uid} {row.sha256}" for row in self.objects)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def studies(self) -> list[str]:
        """The studies they are of."""
        return sorted({row.study_instance_uid for row in self.objects})


def requests_of(entries: Sequence[Entry]) -> dict[str, RecoveryRequest]:
    """Put the rows of the table together, by id, oldest first."""
    contents: dict[str, Mapping[str, Json]] = {}
    approvals: dict[str, list[Approval]] = {}
    used: set[str] = set()
    for entry in entries:
        if entry.kind == REQUEST:
            contents[entry.subject] = entry.body
        elif entry.kind == APPROVE:
            approval = Approval(at=entry.recorded_at, **entry.body)
            approvals.setdefault(entry.subject, []).append(approval)
        elif entry.kind == USE:
            used.add(entry.subject)
    return {
        name: RecoveryRequest(
            content=content,
            approvals=tuple(approvals.get(name, ())),
            used=name in used,
        )
        for name, content in contents.items()
    }
