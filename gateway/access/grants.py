"""Which grants there are, and which hold for somebody now."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

import structlog
from pydantic import ValidationError

from config.explain import nearest
from config.schema import Grant, Site
from gateway.access.caller import Caller
from gateway.access.ledger import Change, Entry, View, recorded
from gateway.errors import ConfigurationError, GrantRefused
from gateway.route.conditions import Condition, ConditionError
from gateway.route.granting import compile_grant

LOG = structlog.get_logger(component="access")

ADD: Final = "add"
REVOKE: Final = "revoke"


@dataclass(frozen=True, kw_only=True)
class Noted:
    """Who changed something, when and why."""

    at: str
    who: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class HeldGrant:
    """A grant, with what became of it.

    Attributes
    ----------
    grant
        As configured, or as it was added.
    condition
        Compiled.
    added
        None: it stands in the configuration.
    revoked
        None: it was not.
    """

    grant: Grant
    condition: Condition
    added: Noted | None = None
    revoked: Noted | None = None

    @property
    def source(self) -> Literal["configuration", "database"]:
        """Where it stands."""
        return "configuration" if self.added is None else "database"

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        """Return whether it holds."""
        if self.revoked is not None:
            return "revoked"
        until = self.grant.until
        return "expired" if until is not None and now >= until else "active"

    def is_for(self, caller: Caller) -> bool:
        """Whether it is given to a node, and to the user it names."""
        users = self.grant.users
        named = caller.node.name in self.grant.nodes
        return named and (not users or caller.user in users)

    def is_to(self, caller: Caller, destination: str) -> bool:
        """Whether a node may have objects sent to an AE title under it."""
        places = self.grant.move_destinations or caller.titles
        return destination in places

    def is_to_itself(self, caller: Caller) -> bool:
        """Whether a node may have objects itself under it."""
        places = self.grant.move_destinations
        return not places or not caller.titles.isdisjoint(places)


class GrantBook:
    """The grants of a site: configured ones, and those of the database.

    The configuration's stand in a file that only its owner can write; those of
    the database are authenticated row by row. A revocation is a row, too.

    Parameters
    ----------
    site
        Its nodes, destinations and grants.

    Raises
    ------
    ConfigurationError
        A condition is wrong.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._static = [
            HeldGrant(grant=grant, condition=_compiled(grant)) for grant in site.grants
        ]
        self._conditions: dict[str, Condition] = {}
        self._seen: tuple[Entry, ...] | None = None
        self._all: tuple[HeldGrant, ...] = ()

    def all(self, view: View) -> tuple[HeldGrant, ...]:
        """Return every grant there is or was.

        Raises
        ------
        AccessTampered
            The table is not what was recorded.
        """
        entries = view.entries("grants")
        seen, found = self._seen, self._all
        if seen is not entries:
            found = tuple(self._read(entries))
            self._all, self._seen = found, entries
        return found

    def holding(
        self, view: View, now: datetime, chosen: Callable[[HeldGrant], bool]
    ) -> tuple[HeldGrant, ...]:
        """Return the grants that hold now, of those that are chosen."""
        return tuple(
            held
            for held in self.all(view)
            if held.state(now) == "active" and chosen(held)
        )

    def add(self, change: Change, grant: Grant, who: str, now: datetime) -> None:
        """Add a grant.

        Raises
        ------
        GrantRefused
            Its name was used before, or it names what is not there.
        """
        why = self._why_not(grant, {held.grant.name for held in self.all(change)}, now)
        if why is not None:
            raise GrantRefused(f"grant {grant.name!r}: {why}")
        body = {"grant": grant.model_dump(mode="json"), "who": who}
        change.append("grants", ADD, grant.name, body, recorded(now))

    def revoke(
        self, change: Change, name: str, who: str, reason: str, now: datetime
    ) -> None:
        """Revoke a grant, for good: its name is not used again.

        Raises
        ------
        GrantRefused
            There is none of that name, or it was revoked before.
        """
        known = {held.grant.name: held for held in self.all(change)}
        if name not in known:
            hint = nearest(name, known)
            raise GrantRefused(f"no grant is named {name!r}{hint}")
        if known[name].revoked is not None:
            raise GrantRefused(f"grant {name!r} was revoked before")
        body = {"who": who, "reason": reason}
        change.append("grants", REVOKE, name, body, recorded(now))

    def _why_not(self, grant: Grant, used: set[str], now: datetime) -> str | None:
        if grant.name in used:
            return "the name was used before; choose another"
        try:
            compile_grant(grant.when)
        except ConditionError as error:
            return f"condition, line {error.line}, column {error.column}: {error}"
        if grant.until is not None and grant.until <= now:
            return "it ends before it begins; give a later time"
        return self._unknown(grant)

    def _unknown(self, grant: Grant) -> str | None:
        nodes = {node.name: node for node in self._site.nodes}
        for name in grant.nodes:
            if name not in nodes:
                return f"no node is named {name!r}{nearest(name, nodes)}"
            if "recover" not in nodes[name].roles:
                return f'node {name!r} lacks the role "recover"'
        places = {d.ae_title for d in self._site.recovery.destinations}
        own = {title for node in self._site.nodes for title in node.ae_titles}
        for title in grant.move_destinations:
            if title not in places | own:
                return f"{title!r} has no address; add it to [[recovery.destinations]]"
        return None

    def _read(self, entries: Sequence[Entry]) -> Iterator[HeldGrant]:
        revoked = {
            entry.subject: _change(entry) for entry in entries if entry.kind == REVOKE
        }
        for held in self._static:
            yield HeldGrant(
                grant=held.grant,
                condition=held.condition,
                revoked=revoked.get(held.grant.name),
            )
        for entry in entries:
            if entry.kind != ADD:
                continue
            grant = _grant(entry.body["grant"])
            yield HeldGrant(
                grant=grant,
                condition=self._condition(grant),
                added=_change(entry),
                revoked=revoked.get(grant.name),
            )

    def _condition(self, grant: Grant) -> Condition:
        """Compile the condition of an added grant; one of old admits nothing."""
        text = grant.when
        if text not in self._conditions:
            try:
                self._conditions[text] = _compiled(grant)
            except ConfigurationError:
                LOG.warning("grant of another release", grant=grant.name)
                self._conditions[text] = compile_grant("false")
        return self._conditions[text]


def grant_of(values: Mapping[str, object]) -> Grant:
    """Make a grant of what a person gave.

    Raises
    ------
    GrantRefused
        It cannot be one; the message names the setting.
    """
    try:
        return Grant.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GrantRefused(f"{where}: {first['msg']}") from error


def _grant(body: Mapping[str, object]) -> Grant:
    grant = Grant.model_validate_json(json.dumps(body))
    if grant.until is None:
        return grant
    return grant.model_copy(update={"until": grant.until.astimezone(UTC)})


def _change(entry: Entry) -> Noted:
    return Noted(
        at=entry.recorded_at,
        who=entry.body["who"],
        reason=entry.body.get("reason", ""),
    )


def _compiled(grant: Grant) -> Condition:
    try:
        return compile_grant(grant.when)
    except ConditionError as error:
        raise ConfigurationError(
            f"grant {grant.name!r}: condition, line {error.line}, column"
            f" {error.column}: {error}"
        ) from error
