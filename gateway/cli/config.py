"""``miad-gateway check-config`` and ``rules test``."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from datetime import UTC, datetime

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


def check_config(config: ConfigOption) -> None:
    """Check a site file: settings, rules and the rules' own tests.

    Exit code 0: the gateway would start with it; 2: it would not, and the
    message names file, line, rule and column. What is not safe, and certificates
    and revocation lists that soon end, are told on standard error.
    """
    from gateway.route.recipients import recipient_warnings
    from gateway.route.rules import load_checked
    from gateway.tls.check import check_tls
    from gateway.tls.reminder import tls_warnings
    from gateway.tls.secrets import secret_reader

    site = load_checked(config)
    now = datetime.now(UTC)
    check_tls(site, secret_reader(site.data_directory), now)
    for warning in [*recipient_warnings(site), *tls_warnings(site, now)]:
        typer.echo(f"warning: {warning}", err=True)
    tests = sum(len(rule.tests) for rule in site.routing.rules)
    typer.echo(
        f"{config}: good: {len(site.routing.rules)} rules, {tests} rule tests,"
        f" {len(site.destinations)} destinations,"
        f" {len(site.nodes)} nodes, {len(site.grants)} grants"
    )


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
