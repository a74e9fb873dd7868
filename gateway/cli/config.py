"""``miad-gateway check-config`` and ``rules test``."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.options import ConfigOption, JsonOption


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    rules = typer.Typer(no_args_is_help=True, help="Routing rules.")
    rules.callback()(_rules)
    rules.command("test")(try_rules)
    app.command("check-config")(check_config)
    app.add_typer(rules, name="rules")


def _rules() -> None:
    """Routing rules."""


StrictOption = Annotated[
    bool,
    typer.Option("--strict", help="Exit code 1 where a choice is less safe."),
]


def check_config(config: ConfigOption, strict: StrictOption = False) -> None:
    """Check a site file: settings, rules and the rules' own tests.

    Exit code 0: the gateway would start with it; 2: it would not, and the
    message names file, line, rule and column. Certificates and revocation lists
    that soon end, and choices that are less safe than they could be, are told on
    standard error; with --strict, exit code 1 where one of them is a warning.
    """
    from config.load import load
    from config.safety import insecurities
    from gateway.route.recipients import recipient_warnings
    from gateway.route.rules import load_checked
    from gateway.sealing.providers import read_secret
    from gateway.tls.check import check_tls
    from gateway.tls.reminder import tls_warnings

    site = load_checked(config)
    now = datetime.now(UTC)
    check_tls(site, partial(read_secret, base_directory=site.data_directory), now)
    warnings = [*recipient_warnings(site), *tls_warnings(site, now)]
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    sources = load(config).sources
    unsafe = insecurities(site)
    for one in unsafe:
        where = sources.describe(one.key)
        typer.echo(f"{one.severity}: {where}: {one.text}", err=True)
    tests = sum(len(rule.tests) for rule in site.routing.rules)
    typer.echo(
        f"{config}: good: {len(site.routing.rules)} rules, {tests} rule tests,"
        f" {len(site.destinations)} destinations,"
        f" {len(site.nodes)} nodes, {len(site.grants)} grants"
    )
    if strict and (warnings or any(one.severity == "warning" for one in unsafe)):
        raise typer.Exit(1)


def try_rules(config: ConfigOption, json: JsonOption = False) -> None:
    """Try every rule on its own examples; exit code 1 when one fails."""
    from config.load import load
    from gateway.route.rules import compile_router, run_tests

    site = load(config).site
    compile_router(site)
    results = run_tests(site)
    if json:
        typer.echo(jsonlib.dumps([asdict(result) for result in results]))
    else:
        table = Table("rule", "test", "result", "")
        for result in results:
            outcome = "passed" if result.passed else "FAILED"
            table.add_row(result.rule, str(result.number), outcome, result.message)
        Console().print(table)
    if not all(result.passed for result in results):
        raise typer.Exit(1)
