"""``miad-gateway grants``: who may have which originals, until when.

They work on the database, beside a gateway that runs: what is added or revoked
holds there from the next object on.
"""

from __future__ import annotations

import json as jsonlib
import os
import pwd
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.access.access import Access
    from gateway.access.grants import HeldGrant

app = typer.Typer(no_args_is_help=True, help="Who may have originals back.")

ReasonOption = Annotated[
    str, typer.Option(help="Why; it stands in the audit trail: name no patient.")
]


@app.callback()
def _grants() -> None:
    """Who may have originals back."""


@app.command()
def add(  # noqa: PLR0913, PLR0917 - the options of a typer command
    name: Annotated[str, typer.Argument(help="Of the grant; never used again.")],
    config: ConfigOption,
    node: Annotated[list[str], typer.Option(help="Who gets it; may be repeated.")],
    when: Annotated[
        str,
        typer.Option(
            help="CEL over an original's patient and study; true for all of them."
        ),
    ],
    to: Annotated[
        list[str] | None,
        typer.Option(help="Move destinations; none: to the nodes themselves."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="When it ends, as 2027-01-31T18:00+01:00."),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(help="Only for requests in the name of these."),
    ] = None,
) -> None:
    """Grant originals to nodes."""
    from gateway.access.grants import grant_of

    grant = grant_of(
        {
            "name": name,
            "nodes": tuple(node),
            "when": when,
            "move_destinations": tuple(to or ()),
            "until": until,
            "users": tuple(user or ()),
        }
    )
    with access_of(config) as access:
        access.add_grant(grant, operator())
    typer.echo(f"granted {name}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Of the grant.")],
    config: ConfigOption,
    reason: ReasonOption,
) -> None:
    """Revoke a grant for good, one of the site file, too."""
    with access_of(config) as access:
        access.revoke_grant(name, operator(), reason)
    typer.echo(f"revoked {name}")


@app.command("list")
def show(config: ConfigOption, json: JsonOption = False) -> None:
    """Show all grants there are or were."""
    with access_of(config) as access:
        found, now = access.grants()
    rows = [_row(held, now) for held in found]
    if json:
        typer.echo(jsonlib.dumps(rows))
        return
    print_table(
        "Grants",
        [
            {
                "grant": row["name"],
                "state": row["state"],
                "nodes": ", ".join(row["nodes"]),
                "when": row["when"],
                "to": ", ".join(row["move_destinations"]) or "themselves",
                "until": row["until"] or "no end",
                "users": ", ".join(row["users"]) or "any",
                "in": row["source"],
            }
            for row in rows
        ],
    )


@app.command()
def clock(
    config: ConfigOption,
    reset: Annotated[
        bool, typer.Option("--reset", help="Take the machine's time as right.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, with --reset.")] = None,
    json: JsonOption = False,
) -> None:
    """Show the time that grants end by, which no clock set back turns back.

    After a clock was wrongly set forward, ``--reset`` puts it right; what ended
    by the wrong time is then in force again.
    """
    from gateway.store.clock import utc_now

    if reset and not reason:
        raise typer.BadParameter("say why with --reason", param_hint="--reset")
    with access_of(config) as access:
        if reset and reason:
            access.reset_clock(operator(), reason)
        trusted, machine = access.clock.now(), utc_now()
    ahead = round((trusted - machine).total_seconds(), 1)
    report = {
        "trusted": trusted.isoformat(),
        "machine": machine.isoformat(),
        "seconds_ahead": ahead,
    }
    if json:
        typer.echo(jsonlib.dumps(report))
        return
    typer.echo(f"grants end by {report['trusted']}")
    typer.echo(f"machine says  {report['machine']}: {ahead} s behind that")


@app.command()
def accept(config: ConfigOption, reason: ReasonOption) -> None:
    """Take the tables of grants as they are, after a database was restored.

    Grants revoked since that backup are in force again: revoke them again. Then
    restart the gateway. A table with an altered row is never accepted.
    """
    with access_of(config, check=False) as access:
        counts = access.accept_tables(operator(), reason)
    typer.echo(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))


def operator() -> str:
    """Return the operating system's name for who runs this command."""
    return pwd.getpwuid(os.getuid()).pw_name


@contextmanager
def access_of(config: ConfigOption, *, check: bool = True) -> Iterator[Access]:
    """Open what a site grants.

    Parameters
    ----------
    config
        The site file.
    check
        Whether there has to be an anchor.
    """
    from gateway.app.openers import open_access_of, open_index_of, open_keys_of
    from gateway.app.places import Places
    from gateway.audit.log import AuditLog
    from gateway.route.rules import load_checked

    site = load_checked(config)
    keys = open_keys_of(site)
    audit = AuditLog(Places(site.data_directory).audit)
    with closing(open_index_of(site, keys)) as index:
        yield open_access_of(site, index, audit, keys, check=check)


def print_table(title: str, rows: list[dict[str, str]]) -> None:
    """Print rows; a line where there are none."""
    from rich.console import Console
    from rich.table import Column, Table

    if not rows:
        typer.echo(f"{title}: none")
        return
    table = Table(*(Column(name, overflow="fold") for name in rows[0]), title=title)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def _row(held: HeldGrant, now: datetime) -> dict[str, Any]:
    row = held.grant.model_dump(mode="json")
    row |= {"state": held.state(now), "source": held.source}
    for what, change in (("added", held.added), ("revoked", held.revoked)):
        if change is not None:
            row[what] = {"at": change.at, "who": change.who}
            row[what] |= {"reason": change.reason} if change.reason else {}
    return row
