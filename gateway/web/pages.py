"""What the console's pages show, as plain values: UIDs and states, no patient."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from os import SEEK_END
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from config.safety import insecurities
from config.schema import Node, Person, Site
from gateway.audit.log import AuditLog
from gateway.errors import ConfigurationError, GatewayError, StoreFull
from gateway.route.urgency import name_of
from gateway.store.index import Index
from gateway.store.rows import Delivery
from gateway.store.work import Work
from gateway.tls.identity import TlsIdentity
from gateway.tls.material import Ending, pinned_endings
from gateway.tls.reminder import tls_warnings
from gateway.web.parts import WebParts

MOST_ROWS: Final = 200
"""Of one table; how many more there are stands below it."""
MOST_LINES: Final = 100
"""Of the audit trail."""
TRAIL_BYTES: Final = 1 << 18
"""Of the audit trail that are looked at, from its end."""

WAITS_FOR: Final = {"complete": "rules and protection", "routed": "sending"}
"""What a series in a state is to go through next."""

Row = dict[str, Any]

# Of a line of the trail, the first columns; all others stand in the last.
_COLUMNS: Final = ("n", "at", "action", "outcome")
_CHAIN: Final = frozenset({"previous", "hash", "personal"})


@dataclass(frozen=True)
class Table:
    """Rows of a table, and how many of them are not shown."""

    rows: Sequence[Row]
    more: int = 0


def table_of(rows: Iterable[Row], most: int = MOST_ROWS) -> Table:
    """Return the first rows, and how many there are beyond."""
    every = iter(rows)
    return Table(list(islice(every, most)), sum(1 for _ in every))


def overview(index: Index) -> Row:
    """Return counts by state, what is held and why, what is unsent, and who took."""
    held = Counter(r.reason or "(none)" for r in index.revisions("held"))
    unsent: Counter[tuple[str, str]] = Counter()
    for state in ("pending", "refused", "held", "uncommitted"):
        for delivery in index.deliveries_in_state(state):
            unsent[delivery.destination, state] += 1
    return {
        "counts": {
            what: dict(sorted(states.items()))
            for what, states in index.counts().items()
            if states
        },
        "open_series": len(index.open_series()),
        "held": sorted(held.items()),
        "unsent": [(*key, count) for key, count in sorted(unsent.items())],
        "taken": index.taken_by(),
        "remarks": table_of(_remark(one) for one in _with_remarks(index)),
        "commitment": [
            (state, count)
            for state in ("waiting", "given-up")
            if (count := len(index.commitment_requests(state)))
        ],
    }


def _with_remarks(index: Index) -> Iterator[Delivery]:
    """Yield what a destination said no to, or yes with a remark, and why."""
    for state in ("refused", "held", "uncommitted"):
        yield from index.deliveries_in_state(state)
    for delivery in index.warned_deliveries():
        if delivery.state in {"sent", "committed"}:
            yield delivery


def _remark(delivery: Delivery) -> Row:
    state = "warned" if delivery.state in {"sent", "committed"} else delivery.state
    return {
        "destination": delivery.destination,
        "state": state,
        "status": "" if delivery.status is None else f"0x{delivery.status:04X}",
        "why": delivery.last_error,
        "bad": state != "warned",
    }


def held(index: Index) -> Row:
    """Return the series and objects that wait for a person."""
    series = (
        {
            "id": revision.id,
            "series": revision.series_instance_uid,
            "study": revision.study_instance_uid,
            "revision": revision.revision,
            "source": revision.calling_ae,
            "closed": revision.closed_at,
            "since": revision.changed_at,
            "priority": name_of(revision.priority),
            "reason": revision.reason,
        }
        for revision in index.revisions("held")
    )
    objects = (
        {
            "uid": instance.sop_instance_uid,
            "series": instance.series_instance_uid,
            "reason": instance.reason,
            "message": instance.message,
        }
        for instance in index.instances_in_state("held")
    )
    conflicts = (
        {
            "uid": conflict.sop_instance_uid,
            "source": conflict.calling_ae,
            "received": conflict.received_at,
        }
        for conflict in index.conflicts()
    )
    return {
        "series": table_of(series),
        "objects": table_of(objects),
        "conflicts": table_of(conflicts),
    }


def workers(index: Index) -> Row:
    """Return the processes of all machines, and how much is under way."""
    processes = (
        {
            "machine": one.machine,
            "process": f"{one.kind} {one.slot}",
            "device": one.device,
            "version": one.version,
            "state": one.state,
            "good": one.state != "lost",
            "started": one.started_at,
            "seen": one.beat_at,
        }
        for one in Work(index.database).executors()
    )
    under_way = Counter(
        (state, revision.priority)
        for state in ("complete", "routed")
        for revision in index.revisions(state)
    )
    return {
        "processes": table_of(processes),
        "under_way": [
            (WAITS_FOR[state], name_of(priority), number)
            for (state, priority), number in sorted(under_way.items())
        ],
    }


def grants(parts: WebParts, *, conditions: bool) -> Row:
    """Return every grant there is or was, and requests that wait for approval.

    Parameters
    ----------
    parts
        Where they are.
    conditions
        Whether to show conditions of grants: they can name patients.
    """
    held_grants, now = parts.access.grants()
    rows = (
        {
            "name": held.grant.name,
            "state": held.state(now),
            "nodes": ", ".join(held.grant.nodes),
            "when": held.grant.when if conditions else "",
            "to": ", ".join(held.grant.move_destinations) or "themselves",
            "until": _moment(held.grant.until),
            "users": ", ".join(held.grant.users) or "any",
            "source": held.source,
            "revoked": held.revoked,
        }
        for held in held_grants
    )
    requests, moment = parts.access.requests()
    waiting = (
        {
            "id": request.id,
            "node": request.content["node"],
            "to": request.content["destination"] or "itself",
            "objects": request.content["objects"],
            "studies": request.content["studies"],
            "until": _moment(request.until),
            "approvers": sorted(parts.access.approvers(request, moment)),
        }
        for request in requests
        if request.is_open(moment)
    )
    return {"grants": table_of(rows), "requests": table_of(waiting)}


def nodes(site: Site, identity: TlsIdentity) -> Row:
    """Return nodes, people, and when certificates and lists end."""
    now = identity.now()
    days = site.tls.warn_days if site.tls is not None else 0
    own = [_ending(e, now, days) for e in identity.material.endings()]
    return {
        "nodes": [_node(one, now, days) for one in site.nodes],
        "people": [_person(one, now, days) for one in site.people],
        "own": own,
    }


def security(site: Site, identity: TlsIdentity) -> Row:
    """Return what of the settings is less safe than it could be, or ends soon."""
    try:
        told = list(tls_warnings(site, identity.now()))
    except ConfigurationError as error:
        told = str(error).splitlines()
    return {
        "less_safe": [
            {
                "setting": one.setting,
                "text": one.text,
                "bad": one.severity == "warning",
            }
            for one in insecurities(site)
        ],
        # What is insecure by its settings stands above, with the setting's name.
        "ends": [text for text in told if not text.startswith("insecure:")],
    }


def trail(audit: AuditLog) -> Row:
    """Return the end of the audit trail, the newest line first, unverified."""
    with audit.path.open("rb") as stream:
        size = stream.seek(0, SEEK_END)
        start = max(0, size - TRAIL_BYTES)
        stream.seek(start)
        whole = stream.read(size - start).splitlines()[1 if start else 0 :]
    lines = [_line(_entry(line)) for line in reversed(whole[-MOST_LINES:])]
    return {"lines": lines}


def health(parts: WebParts) -> list[tuple[str, bool, str]]:
    """Return what is checked: its name, whether it is well, and how it is not."""
    found = []
    checks: tuple[tuple[str, Callable[[], object]], ...] = (
        ("index", parts.index.counts),
        ("store", parts.store.check),
        ("grants", parts.access.grants),
        ("audit trail", parts.audit.path.stat),
        ("room on the disk", lambda: _check_room(parts)),
    )
    for name, check in checks:
        try:
            check()
        except StoreFull as error:
            found.append((name, False, str(error)))
        except (GatewayError, OSError, SQLAlchemyError) as error:
            found.append((name, False, type(error).__name__))
        else:
            found.append((name, True, ""))
    return found


def _check_room(parts: WebParts) -> None:
    space = parts.store.space
    room = space.room() if space is not None else None
    if room is not None and not room.accepting:
        raise StoreFull(
            f"{room.volume.free >> 20} MiB free at {room.tightest.name}: no objects "
            f"are accepted until there are {room.marks.resume >> 20}"
        )


def _node(node: Node, now: datetime, days: int) -> Row:
    return {
        "name": node.name,
        "ae_titles": ", ".join(node.ae_titles),
        "roles": ", ".join(node.roles),
        "addresses": ", ".join(str(one) for one in node.addresses) or "any",
        "plain": node.plain,
        "names": ", ".join(node.certificate_names),
        "certificates": _certificates(node, f"node {node.name}", now, days),
    }


def _person(person: Person, now: datetime, days: int) -> Row:
    return {
        "name": person.name,
        "roles": ", ".join(person.roles),
        "certificates": _certificates(person, f"person {person.name}", now, days),
    }


def _certificates(
    owner: Node | Person, whose: str, now: datetime, days: int
) -> list[Row]:
    """Return an owner's certificates: those of files with their end."""
    rows: list[Row] = []
    for one in owner.certificates:
        if isinstance(one, str):
            rows.append({"what": f"{one[:26]}…", "end": "", "late": False})
            continue
        try:
            ends = pinned_endings(whose, (one,))
            rows += [_ending(e, now, days) | {"what": one.name} for e in ends]
        except ConfigurationError:
            rows.append({"what": one.name, "end": "cannot be read", "late": True})
    return rows


def _ending(ending: Ending, now: datetime, days: int) -> Row:
    return {
        "what": f"{ending.what} {ending.path.name}",
        "end": _moment(ending.end),
        "late": ending.warning(now, days) is not None,
    }


def _entry(line: bytes) -> Mapping[str, Any]:
    """Read a line; one that is none is shown as that, not hidden."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"action": "(damaged line)"}


def _line(entry: Mapping[str, Any]) -> Row:
    rest = {
        name: value
        for name, value in entry.items()
        if name not in _COLUMNS and name not in _CHAIN
    }
    if "personal" in entry:
        rest["personal"] = "(sealed)"
    return {name: entry.get(name, "") for name in _COLUMNS} | {"rest": rest}


def _moment(moment: datetime | None) -> str:
    if moment is None:
        return ""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
