"""The routing rules of a site: compiled, and tried on their own examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.errors import ConfigurationError
from config.load import Loaded, load
from config.schema import Rule, RuleTest, Site
from config.sources import Key, Sources
from gateway.route.conditions import Condition, ConditionError, compile_condition
from gateway.route.granting import compile_grant
from gateway.route.keywords import Value, is_list, kind_of, refusal
from gateway.route.recipients import check_recipients
from gateway.route.router import CompiledRule, Router
from gateway.route.treatment import Treatment
from gateway.route.urgency import PRIORITIES


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """How one example of a rule came out."""

    __test__ = False  # not a test class

    rule: str
    number: int
    passed: bool
    message: str = ""


def load_checked(path: Path, environ: Mapping[str, str] | None = None) -> Site:
    """Read a site file and check everything, rules and certificates included.

    Raises
    ------
    ConfigurationError
        Naming file, line, rule and column.
    """
    loaded = load(path, environ)
    check_conditions(loaded)
    check_recipients(loaded)
    return loaded.site


def check_conditions(loaded: Loaded) -> None:
    """Compile every condition and try every example of a loaded site.

    Raises
    ------
    ConfigurationError
        One line per mistake.
    """
    mistakes = [*_condition_mistakes(loaded.site, loaded.sources)]
    if not mistakes:
        mistakes = [*_example_mistakes(loaded)]
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))


def compile_router(site: Site) -> Router:
    """Return the router of a checked site.

    Raises
    ------
    ConfigurationError
        A condition is wrong.
    """
    rules = tuple(_compiled(rule) for rule in site.routing.rules)
    enclosing = frozenset(d.name for d in site.destinations if d.recipients)
    return Router(rules=rules, match=site.routing.match, enclosing=enclosing)


def run_tests(site: Site) -> list[TestResult]:
    """Try each rule's examples on its condition alone."""
    return [
        _tried(rule, number, test)
        for rule in site.routing.rules
        for number, test in enumerate(rule.tests, start=1)
    ]


def _compiled(rule: Rule) -> CompiledRule:
    try:
        condition = compile_condition(rule.when)
    except ConditionError as error:
        raise ConfigurationError(
            f"rule {rule.name!r}: condition, line {error.line}, column"
            f" {error.column}: {error}"
        ) from error
    return CompiledRule(
        name=rule.name,
        condition=condition,
        destinations=rule.destinations,
        protect=rule.protect,
        treatment=Treatment(
            custody=rule.custody,
            non_images=rule.non_images,
            deidentify=rule.deidentify or "",
            uids=rule.uids,
        ),
        priority=PRIORITIES[rule.priority],
    )


Compile = Callable[[str], Condition]


def _conditions(site: Site) -> Iterator[tuple[str, Key, str, Compile]]:
    for position, rule in enumerate(site.routing.rules):
        key: Key = ("routing", "rules", position, "when")
        yield f"rule {rule.name!r}", key, rule.when, compile_condition
    for position, ensemble in enumerate(site.protection.ensembles):
        key = ("protection", "ensembles", position, "when")
        yield f"ensemble {ensemble.name!r}", key, ensemble.when, compile_condition
    for position, presets in enumerate(site.protection.windows):
        key = ("protection", "windows", position, "when")
        yield f"windows {position + 1}", key, presets.when, compile_condition
    for position, grant in enumerate(site.grants):
        key = ("grants", position, "when")
        yield f"grant {grant.name!r}", key, grant.when, compile_grant


def _condition_mistakes(site: Site, sources: Sources) -> Iterator[str]:
    for title, key, text, compiled in _conditions(site):
        try:
            compiled(text)
        except ConditionError as error:
            place = sources.place(key)
            where = place.in_words() if place is not None else str(sources.file)
            line = text.splitlines()[error.line - 1] if text else ""
            yield (
                f"{where}: {title}: condition, line {error.line}, column"
                f" {error.column}: {error}\n"
                f"    {line}\n    {' ' * (error.column - 1)}^"
            )


def _example_mistakes(loaded: Loaded) -> Iterator[str]:
    positions = {rule.name: i for i, rule in enumerate(loaded.site.routing.rules)}
    for result in run_tests(loaded.site):
        if not result.passed:
            position = positions[result.rule]
            key = ("routing", "rules", position, "tests", result.number - 1)
            yield f"{loaded.sources.describe(key)}: {result.message}"


def _tried(rule: Rule, number: int, test: RuleTest) -> TestResult:
    message = ""
    try:
        attributes = _typed(test)
        found = compile_condition(rule.when).evaluate(attributes)
        if found is not test.expect:
            message = f"expected {test.expect}, found {found}".lower()
    except ConditionError as error:
        message = str(error)
    if message:
        message = f"rule {rule.name!r}, test {number}: {message}"
    return TestResult(
        rule=rule.name, number=number, passed=not message, message=message
    )


def _typed(test: RuleTest) -> dict[str, Value]:
    """Return an example's attributes with the types the keywords have."""
    typed: dict[str, Value] = {}
    for name, given in test.attributes.items():
        if (why := refusal(name)) is not None:
            raise ConditionError(why)
        values = given if isinstance(given, list) else [given]
        kind = kind_of(name)
        if kind == "text" and not all(isinstance(value, str) for value in values):
            raise ConditionError(f"{name} is text; put it in quotes")
        if kind != "text" and any(isinstance(v, str | bool) for v in values):
            raise ConditionError(f"{name} is a number; write it without quotes")
        if isinstance(given, list) and not is_list(name):
            raise ConditionError(f"{name} holds one value, not a list")
        numbers = [float(v) if kind == "double" else v for v in values]
        typed[name] = numbers if is_list(name) else numbers[0]
    return typed
