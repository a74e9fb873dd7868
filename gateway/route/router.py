"""Where an instance goes: a pure decision of the site's rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gateway.route.conditions import Condition, ConditionError
from gateway.route.keywords import Value
from gateway.route.treatment import PLAIN, Treatment
from gateway.route.urgency import ROUTINE, most_urgent

NO_RULE = "no-rule"
UNDECIDED = "undecided-rule"
CONFLICTING = "conflicting-rules"


@dataclass(frozen=True, kw_only=True)
class CompiledRule:
    """A rule with its condition ready to decide."""

    name: str
    condition: Condition
    destinations: tuple[str, ...]
    protect: bool
    treatment: Treatment = PLAIN
    priority: int = ROUTINE


@dataclass(frozen=True, kw_only=True)
class Owed:
    """A destination that gets protected objects, and how they are made for it."""

    destination: str
    treatment: Treatment


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the rules say of one instance.

    Attributes
    ----------
    rules
        Names of the rules that matched, in order.
    protected
        Destinations that get protected objects, and what is to be done for them.
    originals
        Destinations that get the original; never one of the others.
    priority
        Of the most urgent of these rules.
    held
        Why it goes nowhere: a reason code of this module, or ''.
    message
        The same for people.
    """

    rules: tuple[str, ...] = ()
    protected: tuple[Owed, ...] = ()
    originals: tuple[str, ...] = ()
    priority: int = ROUTINE
    held: str = ""
    message: str = ""


@dataclass(frozen=True)
class Router:
    """The rules of a site, in order.

    ``match`` is ``first`` (the first rule that holds decides) or ``all`` (each
    rule that holds adds its destinations). A rule that cannot be decided holds
    the instance, even when a later rule would match: the earlier one might have
    asked for protection. Where two rules disagree about one destination, it
    gets the protected object; where they want it protected in different ways, the
    instance is held.

    ``enclosing`` are the destinations whose recipients a key travels to.
    """

    rules: Sequence[CompiledRule]
    match: Literal["first", "all"]
    enclosing: frozenset[str] = frozenset()

    @property
    def keywords(self) -> frozenset[str]:
        """Everything the rules read."""
        return frozenset().union(*(rule.condition.keywords for rule in self.rules))

    def decide(self, attributes: Mapping[str, Value]) -> Decision:
        """Decide for the attributes of one instance."""
        matched: list[CompiledRule] = []
        for rule in self.rules:
            try:
                holds = rule.condition.evaluate(attributes)
            except ConditionError as error:
                return Decision(held=UNDECIDED, message=f"rule {rule.name!r} {error}")
            if holds:
                matched.append(rule)
                if self.match == "first":
                    break
        if not matched:
            return Decision(held=NO_RULE, message="no rule matches")
        return self._combined(matched)

    def _combined(self, matched: Sequence[CompiledRule]) -> Decision:
        names = tuple(rule.name for rule in matched)
        protected = self._owed(rule for rule in matched if rule.protect)
        destinations = {owed.destination for owed in protected}
        if len(destinations) < len(protected):
            return Decision(
                rules=names,
                held=CONFLICTING,
                message=f"rules {', '.join(names)} want it protected in different "
                "ways for one destination",
            )
        return Decision(
            rules=names,
            protected=protected,
            originals=tuple(
                name
                for name in _destinations(rule for rule in matched if not rule.protect)
                if name not in destinations
            ),
            priority=most_urgent(rule.priority for rule in matched),
        )

    def _owed(self, rules: Iterable[CompiledRule]) -> tuple[Owed, ...]:
        owed = (
            Owed(destination=name, treatment=self._treatment(rule.treatment, name))
            for rule in rules
            for name in rule.destinations
        )
        return tuple(dict.fromkeys(owed))

    def _treatment(self, asked: Treatment, destination: str) -> Treatment:
        """Objects with enclosed keys are made for one destination each."""
        if destination not in self.enclosing:
            return asked
        return replace(asked, recipients_of=destination)


def _destinations(rules: Iterable[CompiledRule]) -> tuple[str, ...]:
    names = (name for rule in rules for name in rule.destinations)
    return tuple(dict.fromkeys(names))
