"""``miad-gateway complete`` and ``status``: look after a site.

They work on the index, beside a gateway that runs; its worker takes the change
up in its next round.
"""

from __future__ import annotations

import json as jsonlib
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.store.index import Index
    from gateway.store.rows import SeriesKey

SeriesOption = Annotated[str | None, typer.Option(help="Series Instance UID.")]
StudyOption = Annotated[str | None, typer.Option(help="Study Instance UID.")]
AllOption = Annotated[bool, typer.Option("--all", help="Everything.")]

TABLES = (
    "held_revisions",
    "held_instances",
    "dropped_instances",
    "conflicts",
    "unsent",
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("complete")(complete)
    app.command("status")(status)


def complete(
    config: ConfigOption,
    series: SeriesOption = None,
    study: StudyOption = None,
    everything: AllOption = False,
) -> None:
    """Count series as whole now, without waiting for their source's silence."""
    from gateway.store.index import utc_now

    _exactly_one(series, study, everything)
    with closing(_index(config)) as index:
        chosen = [
            key
            for key in index.open_series()
            if everything or _is_of(key, series, study)
        ]
        for key in chosen:
            index.close_series(key.series_instance_uid, key.calling_ae, utc_now())
    if not chosen:
        raise GatewayError("no open series matches; see miad-gateway status")
    typer.echo(f"completed {len(chosen)} series")


def status(config: ConfigOption, json: JsonOption = False) -> None:
    """Show how far everything has come, and what is held and why."""
    with closing(_index(config)) as index:
        report = _report(index)
    if json:
        typer.echo(jsonlib.dumps(report))
    else:
        _print(report)


def _report(index: Index) -> dict[str, Any]:
    return {
        "counts": index.counts(),
        "open_series": len(index.open_series()),
        "held_revisions": [
            {
                "series_instance_uid": revision.series_instance_uid,
                "revision": revision.revision,
                "calling_ae": revision.calling_ae,
                "reason": revision.reason,
            }
            for revision in index.revisions("held")
        ],
        "held_instances": _instances(index, "held"),
        "dropped_instances": _instances(index, "dropped"),
        "conflicts": [
            {
                "sop_instance_uid": conflict.sop_instance_uid,
                "sha256": conflict.sha256,
                "calling_ae": conflict.calling_ae,
                "received_at": conflict.received_at,
            }
            for conflict in index.conflicts()
        ],
        "unsent": [
            {
                "destination": delivery.destination,
                "state": delivery.state,
                "attempts": delivery.attempts,
                "status": delivery.status,
                "last_error": delivery.last_error,
            }
            for state in ("pending", "refused", "held")
            for delivery in index.deliveries_in_state(state)
        ],
    }


def _instances(index: Index, state: str) -> list[dict[str, str]]:
    return [
        {
            "sop_instance_uid": instance.sop_instance_uid,
            "reason": instance.reason,
            "message": instance.message,
        }
        for instance in index.instances_in_state(state)
    ]


def _print(report: dict[str, Any]) -> None:
    console = Console()
    counts = Table("what", "state", "number", title="Counts")
    for what, states in report["counts"].items():
        for state, number in sorted(states.items()):
            counts.add_row(what, state, str(number))
    counts.add_row("series", "open", str(report["open_series"]))
    console.print(counts)
    for title in TABLES:
        rows = report[title]
        if rows:
            table = Table(*rows[0], title=title.replace("_", " ").capitalize())
            for row in rows:
                table.add_row(*(str(value) for value in row.values()))
            console.print(table)


def _index(config: ConfigOption) -> Index:
    from config.load import load_site
    from gateway.app.openers import open_index_of, open_keys_of

    site = load_site(config)
    return open_index_of(site, open_keys_of(site))


def _is_of(item: SeriesKey, series: str | None, study: str | None) -> bool:
    return item.series_instance_uid == series or item.study_instance_uid == study


def _exactly_one(series: str | None, study: str | None, everything: bool) -> None:
    if (series is not None) + (study is not None) + everything != 1:
        raise GatewayError("give exactly one of --series UID, --study UID, --all")
