"""``miad-gateway keys status``, ``rotate`` and ``retire``."""

from __future__ import annotations

import json as jsonlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from gateway.cli.key_site import KeySite, open_site
from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import ConfigurationError, GatewayError, KeyInUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway.sealing.census import Census
    from gateway.sealing.rotation import Rewrapped

SHOWN: Final = 5
"""So many files are named in a message."""


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("status")(status)
    app.command("rotate")(rotate)
    app.command("retire")(retire)


def status(config: ConfigOption, json: JsonOption = False) -> None:
    """Show the master keys of a site and how many files are under each.

    Exit code 1 when a file is under a key that is not at hand, or is damaged.
    """
    site = open_site(config)
    report = _report(site, site.census())
    if json:
        typer.echo(jsonlib.dumps(report))
    else:
        _print(report)
    if report["problem"]:
        raise typer.Exit(1)


def rotate(
    config: ConfigOption,
    json: JsonOption = False,
    patience: Annotated[
        float, typer.Option(help="Seconds to wait for files that are being written.")
    ] = 60.0,
) -> None:
    """Put everything under a new master key, while the gateway runs.

    A key in a file is made anew, unless a rotation was begun and not finished:
    then that one goes on. A key elsewhere is made by you and named in
    vault.master_key, the old one in vault.previous_keys; then everything is put
    under it. So it is where several machines share a site, on each of them: see
    docs/cluster.md. May be interrupted at any time and given again.
    """
    site = open_site(config)
    with site.alone():
        old, begun = _begin(site)
        with _progress(hidden=json) as progress:
            outcome = _rewrap(site, progress, patience)
        _check(site, outcome)
        site.record(
            "key-rotation",
            phase="finished",
            key_id=outcome.key_id,
            files=outcome.rewrapped + outcome.renewed,
        )
    _tell_rotation(site, outcome, old, begun, json=json)


def retire(
    key_id: Annotated[str, typer.Argument(help="From keys status.")],
    config: ConfigOption,
) -> None:
    """Destroy a master key of before, under which nothing is any more.

    Keep its backup as long as you keep backups of the data directory made
    before the rotation.
    """
    from gateway.sealing.keyfile import KeyFile

    site = open_site(config)
    with site.alone():
        try:
            file = KeyFile(_key_file(site))
            _check_unused(key_id, site.census())
            file.check_retirable(key_id)
        except KeyInUse as error:
            site.refuse("key-retire", error, key_id=key_id)
            raise
        site.record("key-retire", key_id=key_id)  # no key goes without a trace
        file.retire(key_id)
    typer.echo(
        f"master key {key_id} is destroyed; keep its backup as long as there are "
        "backups of the data directory from its time"
    )


# rotate


def _begin(site: KeySite) -> tuple[str, bool]:
    """Make a new key, unless a rotation has to go on; names of the old one."""
    from gateway.sealing.keyfile import KeyFile
    from gateway.sealing.providers import FileProvider

    current = site.ring.current().key_id
    if isinstance(site.provider, FileProvider) and site.objects is None:
        file = KeyFile(site.provider.path)
        if file.has_next or not _is_unfinished(site, current):
            site.record("key-rotation", phase="begun", former=current)
            file.renew()
            return current, True
    site.record("key-rotation", phase="taken up", key_id=current)
    return "", False


def _is_unfinished(site: KeySite, current: str) -> bool:
    """Whether something is under an earlier key that is at hand.

    What no key at hand opens must not keep a new one from being made.
    """
    earlier = {key.key_id for key in site.ring.known()} - {current}
    return bool(earlier & set(site.census().under))


def _rewrap(
    site: KeySite, progress: Callable[[int, int], None], patience: float
) -> Rewrapped:
    from gateway.sealing.rotation import Rotation
    from gateway.store.rewrap import rewrap_objects
    from gateway.vault.vault import Vault

    vault = Vault(site.places.vault, site.ring)
    rotation = Rotation(site.places.root, site.ring, vault.rewrap, progress)
    outcome = rotation.run(patience)
    if site.objects is not None:
        rewrap_objects(site.objects, site.ring, outcome)
    return outcome


def _check(site: KeySite, outcome: Rewrapped) -> None:
    """Count once more, independently of what the rotation believes.

    Raises
    ------
    GatewayError
        Something is under another key.
    """
    census = site.census()
    left = sum(n for key, n in census.under.items() if key != outcome.key_id)
    if not (left or census.old or outcome.failures or outcome.waiting):
        return
    site.audit.note(
        "key-rotation", "failure", phase="unfinished", key_id=outcome.key_id, left=left
    )
    raise GatewayError(_unfinished(outcome, left + census.old))


def _unfinished(outcome: Rewrapped, left: int) -> str:
    key = outcome.key_id
    told = [f"{left} files are not under key {key} yet: older keys are still needed"]
    if outcome.waiting:
        told.append(
            f"{outcome.waiting} are being written by a process that has an earlier "
            "key: restart receiver and worker, then give the command again"
        )
    told += [f"{each.path}: {each.reason}" for each in outcome.failures[:SHOWN]]
    if len(outcome.failures) > SHOWN:
        told.append(f"and {len(outcome.failures) - SHOWN} more")
    return "\n".join(told)


def _tell_rotation(
    site: KeySite, outcome: Rewrapped, old: str, begun: bool, *, json: bool
) -> None:
    files = outcome.rewrapped + outcome.renewed
    if json:
        told = {
            "key_id": outcome.key_id,
            "previous": old,
            "new": begun,
            "files": files,
            "passes": outcome.passes,
        }
        typer.echo(jsonlib.dumps(told))
        return
    how = f"new, after {old}" if begun else "of a rotation begun before"
    typer.echo(f"master key {outcome.key_id} ({how}): {files} files put under it")
    typer.echo("nothing is under any other key")
    if "backup" not in site.notes().get(outcome.key_id, {}):
        typer.echo("this key has no backup: make one now with keys backup", err=True)


@contextmanager
def _progress(*, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("re-wrapping"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=hidden) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# retire


def _key_file(site: KeySite) -> Path:
    from gateway.sealing.providers import FileProvider

    if not isinstance(site.provider, FileProvider):
        raise KeyInUse(
            "the master key of this site is not in a file: retire an old one by "
            "taking it out of vault.previous_keys, and from where it is kept"
        )
    return site.provider.path


def _check_unused(key_id: str, census: Census) -> None:
    under = census.under[key_id]
    if under:
        raise KeyInUse(
            f"{under} files are under master key {key_id}: run keys rotate first"
        )
    if census.old:
        raise KeyInUse(
            f"{census.old} records of version 1 do not say which key they are "
            "under: run keys rotate first"
        )


# status


def _report(site: KeySite, census: Census) -> dict[str, Any]:
    known, current, missing = _known(site)
    notes = site.notes()
    unknown = sorted(set(census.under) - set(known))
    rows = [
        {
            "key_id": key,
            "state": "unknown"
            if key in unknown
            else ("current" if key == current else "previous"),
            "files": census.under[key],
            "backup": notes.get(key, {}).get("backup", ""),
            "rehearsal": notes.get(key, {}).get("rehearsal", ""),
        }
        for key in [*known, *unknown]
    ]
    return {
        "current": current,
        "keys": rows,
        "files": census.files,
        "version_1": census.old,
        "erased": census.erased,
        "damaged": [str(path) for path in census.damaged],
        "problem": _problem(missing, unknown, census),
    }


def _known(site: KeySite) -> tuple[list[str], str, str]:
    """Names of the keys at hand, of the current one, and what is wrong."""
    from gateway.sealing.ring import has_sealed

    if site.objects is None and not (site.has_key or has_sealed(site.places.root)):
        return [], "", ""  # made when it is first needed
    try:
        known = [key.key_id for key in site.ring.known()]
    except ConfigurationError as error:
        return [], "", str(error)
    return known, known[0], ""


def _problem(missing: str, unknown: list[str], census: Census) -> str:
    if missing:
        return missing
    if unknown:
        files = sum(census.under[key] for key in unknown)
        return (
            f"{files} files are under keys that are not at hand: name them in "
            "vault.previous_keys, or restore them with keys restore --previous"
        )
    if census.damaged:
        return f"{len(census.damaged)} files are damaged: {census.damaged[0]}"
    return ""


def _print(report: dict[str, Any]) -> None:
    console = Console()
    table = Table("key", "state", "files", "backup", "last rehearsal", title="Keys")
    for row in report["keys"]:
        table.add_row(
            row["key_id"],
            row["state"],
            str(row["files"]),
            row["backup"] or "none",
            row["rehearsal"] or "never",
        )
    console.print(table)
    console.print(
        f"{report['files']} sealed files, {report['version_1']} of version 1, "
        f"{report['erased']} erased, {len(report['damaged'])} damaged"
    )
    if report["problem"]:
        typer.echo(f"problem: {report['problem']}", err=True)
