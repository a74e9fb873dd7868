"""Where an instance goes: a pure decision of the site's rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.route.conditions import Condition, ConditionError
from gateway.route.keywords import Value

NO_RULE = "no-rule"
UNDECIDED = "undecided-rule"


@dataclass(frozen=True, kw_only=True)
class CompiledRule:
    """A rule with its condition ready to decide."""

    name: str
    condition: Condition
    destinations: tuple[str, ...]
    protect: bool


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the rules say of one instance.

    Attributes
    ----------
    rules
        Names of the rules that matched, in order.
    protected, originals
        Destinations that get the protected object, and those that get the
        original; never the same one in both.
    held
        Why it goes nowhere: a reason code of this module, or ''.
    message
        The same for people.
    """

    rules: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    originals: tuple[str, ...] = ()
    held: str = ""
    message: str = ""


@dataclass(frozen=True)
class Router:
    """The rules of a site, in order.

    ``match`` is ``first`` (the first rule that holds decides) or ``all`` (each
    rule that holds adds its destinations). A rule that cannot be decided holds
    the instance, even when a later rule would match: the earlier one might have
    asked for protection. Where two rules disagree about one destination, it
    gets the protected object.
    """

    rules: Sequence[CompiledRule]
    match: Literal["first", "all"]

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
        return _combined(matched)


def _combined(matched: Sequence[CompiledRule]) -> Decision:
    protected = _destinations(rule for rule in matched if rule.protect)
    originals = _destinations(rule for rule in matched if not rule.protect)
    return Decision(
        rules=tuple(rule.name for rule in matched),
        protected=protected,
        originals=tuple(name for name in originals if name not in protected),
    )


def _destinations(rules: Iterable[CompiledRule]) -> tuple[str, ...]:
    names = (name for rule in rules for name in rule.destinations)
    return tuple(dict.fromkeys(names))
