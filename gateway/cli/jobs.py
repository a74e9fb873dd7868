"""``miad-gateway jobs``: what is under way, what is held, and who works.

They work on the index, beside a gateway that runs; its workers take a change up
in their next round.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.grants import ReasonOption, operator, print_table
from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from config.schema import Site
    from gateway.sealing.master import Keys
    from gateway.store.index import Index
    from gateway.store.rows import Revision

app = typer.Typer(no_args_is_help=True, help="What is under way, and what is held.")

ALL = "all"


@app.callback()
def _jobs() -> None:
    """Show what is under way and what is held, and have it replayed."""


@app.command("list")
def under_way(config: ConfigOption, json: JsonOption = False) -> None:
    """Show the series under way, and the destinations they still owe something."""
    from gateway.store.work import Work

    with _opened(config) as (_, index, _keys):
        found = [*index.revisions("complete"), *index.revisions("routed")]
        owed: dict[int, list[str]] = {}
        for item in Work(index.database).owed(one.id for one in found):
            owed.setdefault(item.revision_id, []).append(item.destination)
    rows = [_row(one) | {"owed": owed.get(one.id, [])} for one in found]
    _show("Under way", rows, "nothing is under way", json=json)


@app.command()
def dead(config: ConfigOption, json: JsonOption = False) -> None:
    """Show what is held: what was given up, until a person has it replayed."""
    with _opened(config) as (_, index, _keys):
        found = index.revisions("held")
    rows = [_row(one) | {"reason": one.reason} for one in found]
    _show("Held", rows, "nothing is held", json=json)


@app.command()
def workers(config: ConfigOption, json: JsonOption = False) -> None:
    """Show the processes of all machines of the site."""
    from gateway.store.work import Work

    with _opened(config) as (_, index, _keys):
        found = Work(index.database).executors()
    rows = [
        {
            "id": one.id,
            "kind": one.kind,
            "state": one.state,
            "device": one.device,
            "pid": one.pid,
            "version": one.version,
            "started": one.started_at,
            "seen": one.beat_at,
        }
        for one in found
    ]
    _show("Processes", rows, "no process was ever started", json=json)


@app.command()
def replay(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="As `dead` shows; or: all.")
    ],
    config: ConfigOption,
    reason: ReasonOption,
    json: JsonOption = False,
) -> None:
    """Send what is held through rules, protection and export again.

    What was sent stays sent; what is not held any more is left alone.
    """
    from gateway.app.openers import open_audit_of
    from gateway.audit.replay import replay as put_back

    with _opened(config) as (site, index, keys):
        audit = open_audit_of(site, keys)
        chosen = _chosen(index, ids)
        who = {"service": "command line", "user": operator()}
        done = [one for one in chosen if put_back(index, audit, one, reason, who)]
    if json:
        typer.echo(jsonlib.dumps({"replayed": done}))
    else:
        typer.echo(f"replayed {len(done)} of {len(chosen)}")


def _chosen(index: Index, ids: list[str]) -> list[int]:
    if ids == [ALL]:
        return [one.id for one in index.revisions("held")]
    unknown = [
        one for one in ids if not one.isdecimal() or index.revision(int(one)) is None
    ]
    if unknown:
        raise GatewayError(
            f"no series has the id {', '.join(unknown)}; see miad-gateway jobs dead"
        )
    return [int(one) for one in ids]


def _row(one: Revision) -> dict[str, Any]:
    from gateway.route.urgency import name_of

    return {
        "id": one.id,
        "state": one.state,
        "priority": name_of(one.priority),
        "series": one.series_instance_uid,
        "revision": one.revision,
        "source": one.calling_ae,
        "since": one.changed_at,
    }


def _show(title: str, rows: list[dict[str, Any]], empty: str, *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps(rows))
    elif rows:
        print_table(title, [{k: _text(v) for k, v in row.items()} for row in rows])
    else:
        typer.echo(empty)


def _text(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


@contextmanager
def _opened(config: ConfigOption) -> Iterator[tuple[Site, Index, Keys]]:
    from config.load import load_site
    from gateway.app.openers import open_index_of, open_keys_of

    site = load_site(config)
    keys = open_keys_of(site)
    with closing(open_index_of(site, keys)) as index:
        yield site, index, keys
