"""``miad-gateway approvals``: the two people behind a bulk recovery."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.grants import access_of, operator, print_table
from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import ApprovalRefused

if TYPE_CHECKING:
    from datetime import datetime

    from config.schema import Person
    from gateway.access.access import Access
    from gateway.access.requests import RecoveryRequest

app = typer.Typer(no_args_is_help=True, help="Two people for many originals.")


@app.callback()
def _approvals() -> None:
    """Two people for many originals."""


@app.command("list")
def show(
    config: ConfigOption,
    everything: Annotated[
        bool, typer.Option("--all", help="Lapsed and used ones, too.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show requests that wait for approval, and who has approved them."""
    with access_of(config) as access:
        found, now = access.requests()
        rows = [
            _row(request, access, now)
            for request in found
            if everything or request.is_open(now)
        ]
    if json:
        typer.echo(jsonlib.dumps(rows))
        return
    print_table(
        "Requests for approval",
        [
            {
                "id": row["id"],
                "node": row["node"],
                "user": row["user"] or "",
                "to": row["destination"] or "itself",
                "objects": str(row["objects"]),
                "studies": "\n".join(row["studies"]),
                "until": row["until"],
                "approved by": ", ".join(row["approved_by"]),
                "state": row["state"],
            }
            for row in rows
        ],
    )


@app.command()
def approve(
    id: Annotated[str, typer.Argument(help="Of the request, as `list` shows it.")],
    config: ConfigOption,
    person: Annotated[str, typer.Option(help="Who approves: a name in [[people]].")],
    key: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="Their private key, PEM."),
    ],
    certificate: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Their certificate, PEM; absent: that of [[people]].",
        ),
    ] = None,
) -> None:
    """Sign a request with a person's own key; two different people must."""
    from gateway.access.requests import Approval
    from gateway.access.signatures import sign

    with access_of(config) as access:
        found, _ = access.requests()
        request = next((r for r in found if r.id == id), None)
        if request is None:
            raise ApprovalRefused(f"no request is named {id!r}")
        known = access.people.named(person)
        pem = _certificate(certificate, known)
        signature = sign(_private_key(key), request.signed)
        given = Approval(at="", person=person, certificate=pem, signature=signature)
        access.approve(id, given, operator())
        found, now = access.requests()
        approvers = access.approvers(next(r for r in found if r.id == id), now)
    typer.echo(f"approved by {', '.join(sorted(approvers))}")


def _private_key(path: Path) -> object:
    """Read a private key; its passphrase is asked for where it has one."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    octets = path.read_bytes()
    try:
        try:
            return load_pem_private_key(octets, password=None)
        except TypeError:  # it is encrypted
            passphrase = typer.prompt("Passphrase", hide_input=True, err=True)
            return load_pem_private_key(octets, password=passphrase.encode())
    except ValueError as error:
        raise ApprovalRefused(
            f"{path} is no private key in PEM form, or the passphrase is wrong"
        ) from error


def _certificate(given: Path | None, person: Person | None) -> str:
    """Return a person's certificate, PEM."""
    path = given
    if path is None and person is not None:
        path = next((c for c in person.certificates if isinstance(c, Path)), None)
    if path is None:
        raise ApprovalRefused("name the person's certificate with --certificate")
    return path.read_text(encoding="ascii")


def _row(request: RecoveryRequest, access: Access, now: datetime) -> dict[str, Any]:
    state = "open" if request.is_open(now) else "lapsed"
    return {
        **request.content,
        "approved_by": sorted(access.approvers(request, now)),
        "state": "used" if request.used else state,
    }
