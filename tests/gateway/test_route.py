from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from gateway.route.conditions import compile_condition
from gateway.route.keywords import Value
from gateway.route.router import (
    CONFLICTING,
    NO_RULE,
    UNDECIDED,
    CompiledRule,
    Router,
)
from gateway.route.treatment import Treatment


def rule(
    name: str, when: str, destinations: tuple[str, ...], *, protect: bool
) -> CompiledRule:
    return CompiledRule(
        name=name,
        condition=compile_condition(when),
        destinations=destinations,
        protect=protect,
    )


RULES = (
    rule("mr", 'Modality == "MR"', ("research",), protect=True),
    rule("thin", "SliceThickness < 1.0", ("research", "archive"), protect=True),
    rule("any", 'Modality != ""', ("archive",), protect=False),
)

MR: dict[str, Value] = {"Modality": "MR", "SliceThickness": 0.5}


@pytest.mark.parametrize(
    ("match", "rules", "protected", "originals"),
    [
        ("first", ("mr",), ("research",), ()),
        # The archive is asked for both ways: it gets the protected object.
        ("all", ("mr", "thin", "any"), ("research", "archive"), ()),
    ],
)
def test_first_and_all(
    match: Literal["first", "all"],
    rules: tuple[str, ...],
    protected: tuple[str, ...],
    originals: tuple[str, ...],
) -> None:
    decision = Router(RULES, match).decide(MR)

    assert decision.rules == rules
    assert tuple(owed.destination for owed in decision.protected) == protected
    assert decision.originals == originals
    assert not decision.held


def test_originals_go_where_only_a_rule_for_originals_matches() -> None:
    decision = Router(RULES, "first").decide({"Modality": "CT", "SliceThickness": 5.0})

    assert (decision.protected, decision.originals) == ((), ("archive",))


def test_nothing_matches_is_held() -> None:
    decision = Router(RULES[:1], "first").decide({"Modality": "CT"})

    assert (decision.held, decision.protected, decision.originals) == (NO_RULE, (), ())


@pytest.mark.parametrize("match", ["first", "all"])
def test_a_rule_that_cannot_be_decided_holds_even_if_a_later_one_matches(
    match: Literal["first", "all"],
) -> None:
    decision = Router(RULES, match).decide({"Modality": "CT"})

    assert decision.held == UNDECIDED
    assert "rule 'thin' cannot be decided: SliceThickness absent" in decision.message
    assert (decision.protected, decision.originals) == ((), ())


def test_the_router_reads_only_what_its_rules_name() -> None:
    assert Router(RULES, "all").keywords == {"Modality", "SliceThickness"}


PROFILE = Treatment(deidentify="trial", custody="key")


def treated(name: str, treatment: Treatment) -> CompiledRule:
    return replace(rule(name, "true", ("research",), protect=True), treatment=treatment)


def test_what_a_rule_asks_for_travels_with_its_destinations() -> None:
    (owed,) = Router([treated("a", PROFILE)], "first").decide({}).protected
    assert owed.treatment.key == "custody=key;deidentify=trial"
    assert rule("b", "true", ("x",), protect=True).treatment.key == ""


def test_an_object_with_an_enclosed_key_is_made_for_its_destination() -> None:
    rules = [rule("a", "true", ("tele", "research"), protect=True)]
    decision = Router(rules, "first", frozenset({"tele"})).decide({})
    assert [(o.destination, o.treatment.key) for o in decision.protected] == [
        ("tele", "for=tele"),
        ("research", ""),
    ]


def test_rules_that_want_it_protected_in_different_ways_hold_it() -> None:
    rules = [treated("a", PROFILE), treated("b", Treatment())]
    decision = Router(rules, "all").decide({})
    assert decision.held == CONFLICTING
    assert "a, b" in decision.message
    assert not decision.protected
    agreeing = Router([treated("a", PROFILE), treated("b", PROFILE)], "all").decide({})
    assert len(agreeing.protected) == 1
