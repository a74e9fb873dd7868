"""``miad-gateway retention``, ``erase`` and ``upgrade``: what a site keeps."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import key_erase
from gateway.cli.options import ConfigOption, JsonOption

if TYPE_CHECKING:
    from config.schema import Site
    from gateway.stages.retain import Keeper

retention = typer.Typer(
    no_args_is_help=True, help="What is kept for how long, and deleting what is not."
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(retention, name="retention")
    key_erase.add_study_to(app)
    app.command("upgrade")(upgrade)


@retention.command("show")
def show(config: ConfigOption, json: JsonOption = False) -> None:
    """Show the policies, what is due by them now, and what has gone so far."""
    with _keeper(config) as (site, keeper):
        due = keeper.due(keeper.clock())
        told: dict[str, Any] = {
            "policies": site.retention.model_dump(),
            "due": {kind: len(found) for kind, found in due.items()},
            "gone": keeper.rows.counts(),
        }
    if json:
        typer.echo(jsonlib.dumps(told))
        return
    for name in ("originals", "protected", "keys"):
        keep = getattr(site.retention, name)
        kept = "for ever" if keep.days is None else f"{keep.days} days"
        early = "" if keep.spare_days is None else f", {keep.spare_days} when short"
        typer.echo(f"{name}: kept {kept}{early}")
    held = site.retention.held_days
    typer.echo(f"held: kept {'for ever' if held is None else f'{held} days'}")
    for title in ("due", "gone"):
        counts = ", ".join(f"{n} {kind}" for kind, n in told[title].items() if n)
        typer.echo(f"{title}: {counts or 'nothing'}")


@retention.command("run")
def run(
    config: ConfigOption,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only shows what would go.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Delete what is due now, without waiting for the worker's round."""
    from dataclasses import asdict

    with _keeper(config) as (_, keeper):
        if dry_run:
            due = keeper.due(keeper.clock())
            told: dict[str, Any] = {
                kind: [one.uid for one in found] for kind, found in due.items()
            }
        else:
            told = asdict(keeper.retain(keeper.clock(), 3600.0))
    if json:
        typer.echo(jsonlib.dumps(told))
        return
    for kind, found in told.items():
        number = len(found) if dry_run else found
        typer.echo(f"{kind}: {number}{' would go' if dry_run else ''}")


def upgrade(
    config: ConfigOption,
    backed_up: Annotated[
        bool,
        typer.Option(
            "--backed-up", help="There is a backup of the PostgreSQL database."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring the index to this program's revision; any start does it for SQLite."""
    from config.load import load_site
    from gateway.app.openers import open_index_of, open_keys_of
    from gateway.app.places import Places
    from gateway.store.upgrade import backups_of

    site = load_site(config)
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys, backed_up=backed_up)) as index:
        plan = index.upgraded
    copies = [path.name for path in backups_of(Places(site.data_directory).index)]
    told = {"before": plan.current, "after": plan.head, "copies": copies}
    if json:
        typer.echo(jsonlib.dumps(told))
    elif plan.is_due:
        typer.echo(f"upgraded from {plan.current or 'nothing'} to {plan.head}")
    else:
        typer.echo(f"nothing to do: the index is at {plan.head}")


@contextmanager
def _keeper(config: ConfigOption) -> Iterator[tuple[Site, Keeper]]:
    from config.load import load_site
    from gateway.app.keeping import keeper_of
    from gateway.app.openers import open_index_of, open_keys_of, open_store_of

    site = load_site(config)
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys)) as index:
        yield site, keeper_of(site, index, open_store_of(site, keys), keys)
