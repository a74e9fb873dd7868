"""``miad-gateway audit``: the trail verified, shown, and its public key."""

from __future__ import annotations

import getpass
import json as jsonlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import AuditBroken

if TYPE_CHECKING:
    from gateway.audit.chain import Link
    from gateway.audit.log import AuditLog
    from gateway.audit.sealer import FieldSealer
    from gateway.audit.verify import Report
    from gateway.sealing.secrets import SecretStore

app = typer.Typer(no_args_is_help=True, help="The audit trail.")

OWN = frozenset({"n", "at", "action", "outcome", "previous", "hash", "personal"})


@app.callback()
def _audit() -> None:
    """Verify and show the audit trail."""


@app.command()
def key(
    config: ConfigOption,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Write the PEM file here."),
    ] = None,
) -> None:
    """Show the public key of the checkpoints; keep it elsewhere.

    With it, ``audit verify --public-key`` tells whether anybody who may write the
    trail has made it anew.
    """
    from gateway.audit.checkpoints import fingerprint, public_pem
    from gateway.audit.compose import open_signer

    if output is not None and output.exists():
        raise typer.BadParameter(f"{output} is there", param_hint="--output")
    public = open_signer(_secrets(config)).public
    if output is None:
        typer.echo(public_pem(public), nl=False)
    else:
        output.write_text(public_pem(public), encoding="ascii")
    typer.echo(fingerprint(public), err=output is None)


@app.command()
def verify(
    config: ConfigOption,
    log: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A copy of audit.jsonl."),
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(help="Public key kept elsewhere, from `audit key`; repeatable."),
    ] = None,
    at_least: Annotated[
        str | None,
        typer.Option(metavar="N:HASH", help="End of the trail kept elsewhere."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check every line, every signature, and against what is kept elsewhere.

    Exit code 0: the trail is whole; 1: it is not, and file and line of the first
    damage are named. Keep the end it shows, to tell later that nothing was cut off.
    """
    from gateway.audit.checkpoints import read_public
    from gateway.audit.verify import verify_trail

    trusted = frozenset(read_public(path) for path in public_key or ())
    kept = _link(at_least)
    trail = _trail(config)
    begin = time.monotonic()
    try:
        report = verify_trail(log or trail.path, trusted=trusted, at_least=kept)
    except AuditBroken as error:
        if log is None:
            trail.note("audit-read", "failure", command="verify", error=str(error))
        if json:
            _print_broken(error)
            raise typer.Exit(1) from error
        raise
    if log is None:
        trail.note("audit-read", "success", command="verify", user=getpass.getuser())
    seconds = time.monotonic() - begin
    if json:
        typer.echo(jsonlib.dumps(_as_json(report, seconds)))
    else:
        _print_report(report, pinned=bool(trusted), seconds=seconds)


@app.command()
def show(
    config: ConfigOption,
    since: Annotated[
        datetime | None, typer.Option(help="Only lines from this time on, UTC.")
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option(help="Only these actions; repeatable.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option(help="success, refused or failure.")
    ] = None,
    personal: Annotated[
        bool, typer.Option("--personal", help="Open sealed fields, with the key.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show lines of the trail; that they were read is a line too.

    What names patients is shown as <sealed> unless asked for.
    """
    trail = _trail(config)
    sealer = _sealer(config) if personal else None
    wanted = Wanted(
        since=since.replace(tzinfo=since.tzinfo or UTC) if since else None,
        actions=frozenset(action or ()),
        outcome=outcome,
    )
    trail.record(
        "audit-read",
        "success",
        command="show",
        user=getpass.getuser(),
        since=str(since) if since else None,
        actions=sorted(action or ()),
        opened=personal,
    )
    for entry in wanted.of(trail):
        shown = _readable(entry, sealer)
        typer.echo(jsonlib.dumps(shown) if json else _as_text(shown))


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which lines to show."""

    since: datetime | None
    actions: frozenset[str]
    outcome: str | None

    def of(self, trail: AuditLog) -> Iterator[dict[str, Any]]:
        """Yield the lines that are wanted, each checked."""
        for entry in trail.entries():
            if (
                (not self.actions or entry["action"] in self.actions)
                and (self.outcome is None or entry["outcome"] == self.outcome)
                and (
                    self.since is None
                    or datetime.fromisoformat(entry["at"]) >= self.since
                )
            ):
                yield entry


def _readable(entry: dict[str, Any], sealer: FieldSealer | None) -> dict[str, Any]:
    """Return a line with its sealed fields opened, or named as such."""
    from gateway.audit.sealer import DROPPED, SEALED, open_fields

    if "personal" not in entry or entry["personal"] == DROPPED:
        return entry
    opened = SEALED if sealer is None else open_fields(sealer, entry)
    return entry | {"personal": opened}


def _as_text(entry: dict[str, Any]) -> str:
    fields = [
        f"{name}={_short(value)}" for name, value in entry.items() if name not in OWN
    ]
    if "personal" in entry:
        fields.append(f"personal={_short(entry['personal'])}")
    head = (str(entry[name]) for name in ("n", "at", "action", "outcome"))
    return " ".join([*head, *fields])


def _short(value: object) -> str:
    return value if isinstance(value, str) else jsonlib.dumps(value)


def _as_json(report: Report, seconds: float) -> dict[str, object]:
    from gateway.audit.checkpoints import fingerprint

    return {
        "whole": True,
        "lines": report.end.count,
        "end": str(report.end),
        "files": [str(path) for path in report.files],
        "checkpoints": report.checkpoints,
        "covered": report.covered,
        "uncovered": report.uncovered,
        "keys": sorted(fingerprint(public) for public in report.keys),
        "seconds": round(seconds, 3),
    }


def _print_report(report: Report, *, pinned: bool, seconds: float) -> None:
    from gateway.audit.checkpoints import fingerprint

    typer.echo(
        f"whole: {report.end.count} lines in {len(report.files)} files,"
        f" {report.checkpoints} signed checkpoints, {seconds:.1f} s"
    )
    for public in sorted(report.keys):
        told = "as given" if pinned else "not compared: give --public-key"
        typer.echo(f"signed by {fingerprint(public)} ({told})")
    if report.uncovered:
        typer.echo(
            f"not covered by a checkpoint yet: {report.uncovered} lines at the end"
        )
    typer.echo(f"end, to keep elsewhere: {report.end}")


def _print_broken(error: AuditBroken) -> None:
    place = {"file": str(error.path) if error.path else None, "line": error.line}
    typer.echo(jsonlib.dumps({"whole": False, "error": str(error), **place}))


def _link(text: str | None) -> Link | None:
    from gateway.audit.chain import Link

    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text.strip())
    if match is None:
        raise typer.BadParameter(
            "give it as `audit verify` shows it: a number, a colon and 64 digits",
            param_hint="--at-least",
        )
    return Link(int(match[1]), match[2])


def _trail(config: Path) -> AuditLog:
    from config.load import load_site
    from gateway.app.places import Places
    from gateway.audit.log import AuditLog

    return AuditLog(Places(load_site(config).data_directory).audit)


def _secrets(config: Path) -> SecretStore:
    from config.load import load_site
    from gateway.app.openers import open_keys_of, open_secrets_of

    site = load_site(config)
    return open_secrets_of(site, open_keys_of(site))


def _sealer(config: Path) -> FieldSealer:
    from gateway.audit.sealer import KEY_LENGTH, AesFieldSealer

    return AesFieldSealer(_secrets(config).get("audit", KEY_LENGTH))
