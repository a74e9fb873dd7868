"""``miad-gateway pki``: an authority for sites that have none."""

from __future__ import annotations

import json as jsonlib
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from gateway.cli.options import JsonOption
from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from gateway.tls.authority import Issued, SiteAuthority
    from gateway.tls.issuing import Issuer

AUTHORITY_DAYS = 3650
NODE_DAYS = 730
LIST_DAYS = 180

app = typer.Typer(no_args_is_help=True, help="A site's own certificates for TLS.")


class KeyKind(StrEnum):
    """Kinds of key; RSA for devices that know no other."""

    ECDSA = "ecdsa"
    RSA = "rsa"


FolderOption = Annotated[
    Path,
    typer.Option("--dir", "-d", envvar="MIAD_PKI", help="The authority's folder."),
]
KindOption = Annotated[
    KeyKind, typer.Option("--key-type", help="ECDSA P-256, or RSA of 3072 bits.")
]
DaysOption = Annotated[
    int, typer.Option("--days", min=1, max=3650, help="How long it is good.")
]
AuthorityPassphrase = Annotated[
    str | None,
    typer.Option(
        "--ca-passphrase",
        help="Where the passphrase of the authority's key is: file:PATH, env:NAME or"
        " credential:NAME. Asked for at a terminal.",
    ),
]
NodePassphrase = Annotated[
    str | None,
    typer.Option(
        "--passphrase",
        help="Encrypt the node's key; where its passphrase is, as above.",
    ),
]
DnsOption = Annotated[
    list[str] | None, typer.Option("--dns", help="DNS name; may be repeated.")
]
AddressOption = Annotated[
    list[str] | None, typer.Option("--ip", help="IP address; may be repeated.")
]
TitleOption = Annotated[
    list[str] | None,
    typer.Option("--ae", help="AE title, for the lines that are printed."),
]
NameArgument = Annotated[str, typer.Argument(help="Name of the node.")]


@app.callback()
def _pki() -> None:
    """Make a site's own certificates for TLS.

    The authority's folder belongs on a machine that is not the gateway.
    """


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    name: Annotated[str, typer.Option(help="Name of the site.")],
    key_type: KindOption = KeyKind.ECDSA,
    days: DaysOption = AUTHORITY_DAYS,
    crl_url: Annotated[
        str, typer.Option(help="http:// URL where the site publishes crl.pem, if any.")
    ] = "",
    ca_passphrase: AuthorityPassphrase = None,
) -> None:
    """Make an authority: its key, its certificate, an empty revocation list.

    Without --ca-passphrase a terminal asks for one; an empty answer leaves the
    key unencrypted.
    """
    from gateway.tls.authority import SiteAuthority

    authority = SiteAuthority(folder)
    secret = _secret(ca_passphrase)
    if secret is None and sys.stdin.isatty():
        asked = typer.prompt(
            "Passphrase of the authority's key",
            default="",
            show_default=False,
            hide_input=True,
            confirmation_prompt=True,
        )
        secret = asked.encode() or None
    authority.create(name, key_type.value, secret, days, crl_url)
    if secret is None:
        typer.echo(
            f"warning: {authority.key} is not encrypted: whoever reads it can make"
            " certificates of any node",
            err=True,
        )
    typer.echo(f"authority in {folder}; it is good for {days} days")
    typer.echo(f"next: miad-gateway pki issue gateway --gateway --dns NAME -d {folder}")


@app.command()
def issue(  # noqa: PLR0913 - the options of a typer command are its arguments
    name: NameArgument,
    *,
    folder: FolderOption,
    dns: DnsOption = None,
    ip: AddressOption = None,
    ae: TitleOption = None,
    key_type: KindOption = KeyKind.ECDSA,
    days: DaysOption = NODE_DAYS,
    ca_passphrase: AuthorityPassphrase = None,
    passphrase: NodePassphrase = None,
    p12: Annotated[
        bool, typer.Option("--p12", help="Also PKCS#12, for devices that want it.")
    ] = False,
    gateway: Annotated[
        bool, typer.Option("--gateway", help="For this gateway: print [tls].")
    ] = False,
) -> None:
    """Make a key and a certificate, and print the lines for the site's file."""
    from gateway.tls.authority import Wanted

    authority, issuer = _unlocked(folder, ca_passphrase)
    issued = authority.issue(
        issuer,
        Wanted.of(name, dns or (), ip or (), ae or ()),
        key_type.value,
        days,
        passphrase=_secret(passphrase),
        with_pkcs12=p12,
    )
    _print_issued(issued)
    if gateway:
        _print_tls(authority, issued, passphrase)
    else:
        _print_node(issued)


@app.command()
def sign(  # noqa: PLR0913 - the options of a typer command are its arguments
    request: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="PKCS#10, PEM.")
    ],
    *,
    name: Annotated[str, typer.Option(help="Name of the node.")],
    folder: FolderOption,
    dns: DnsOption = None,
    ip: AddressOption = None,
    ae: TitleOption = None,
    days: DaysOption = NODE_DAYS,
    ca_passphrase: AuthorityPassphrase = None,
) -> None:
    """Make a certificate for a device that keeps its key.

    Only the key is taken from the request: names are those given here.
    """
    from gateway.tls.authority import Wanted

    authority, issuer = _unlocked(folder, ca_passphrase)
    wanted = Wanted.of(name, dns or (), ip or (), ae or ())
    issued = authority.sign(issuer, wanted, request.read_bytes(), days)
    _print_issued(issued)
    _print_node(issued)


@app.command()
def renew(
    name: NameArgument,
    folder: FolderOption,
    days: DaysOption = NODE_DAYS,
    ca_passphrase: AuthorityPassphrase = None,
    passphrase: NodePassphrase = None,
) -> None:
    """Issue a node's certificate anew; the one of before stays good.

    With a new key, where the key is in the folder; else for the same key.
    """
    authority, issuer = _unlocked(folder, ca_passphrase)
    issued = authority.renew(issuer, name, days, _secret(passphrase))
    _print_issued(issued)
    _print_node(issued)


@app.command()
def revoke(
    which: Annotated[str, typer.Argument(help="Name of a node, or a serial number.")],
    folder: FolderOption,
    ca_passphrase: AuthorityPassphrase = None,
) -> None:
    """Revoke certificates, and make the revocation list anew.

    A gateway that reads this list refuses them within a second; else copy it there.
    """
    authority, issuer = _unlocked(folder, ca_passphrase)
    for entry in authority.revoke(issuer, which):
        typer.echo(f"revoked {entry.name}, serial {entry.serial}")
    typer.echo(f"list in {authority.revocation_list}: give it to every node")


@app.command()
def crl(
    folder: FolderOption,
    days: DaysOption = LIST_DAYS,
    ca_passphrase: AuthorityPassphrase = None,
) -> None:
    """Make the revocation list anew, before the last one ends."""
    authority, issuer = _unlocked(folder, ca_passphrase)
    end = authority.renew_list(issuer, days)
    typer.echo(f"list in {authority.revocation_list}, good until {end:%Y-%m-%d}")


@app.command("list")
def show(folder: FolderOption, json: JsonOption = False) -> None:
    """Show what was issued."""
    from gateway.tls.authority import SiteAuthority

    entries = SiteAuthority(folder).ledger().entries
    now = datetime.now(UTC)
    if json:
        found = [asdict(entry) | {"state": entry.state(now)} for entry in entries]
        typer.echo(jsonlib.dumps(found))
        return
    table = Table("name", "state", "until", "DNS", "AE titles")
    table.add_column("serial", overflow="fold")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.state(now),
            entry.not_after[:10],
            "\n".join((*entry.dns, *entry.addresses)),
            "\n".join(entry.ae_titles),
            entry.serial,
        )
    Console().print(table)


def _unlocked(folder: Path, source: str | None) -> tuple[SiteAuthority, Issuer]:
    """Open an authority with its key."""
    from gateway.tls.authority import SiteAuthority

    authority = SiteAuthority(folder)
    authority.ledger()  # a folder that is none is told by name
    secret = _secret(source)
    if secret is None and authority.is_encrypted() and sys.stdin.isatty():
        asked = typer.prompt("Passphrase of the authority's key", hide_input=True)
        secret = asked.encode()
    return authority, authority.unlock(secret)


def _secret(source: str | None) -> bytes | None:
    """Read a passphrase; never from the command line itself."""
    from gateway.sealing.providers import read_secret

    if source is None:
        return None
    if not source.startswith(("file:", "env:", "credential:")):
        raise ConfigurationError(
            "a passphrase is named, not given: file:PATH, env:NAME or credential:NAME"
        )
    return read_secret(source, Path.cwd())


def _print_issued(issued: Issued) -> None:
    entry = issued.entry
    typer.echo(f"# certificate  {issued.certificate}  (until {entry.not_after[:10]})")
    if issued.key is not None:
        typer.echo(f"# private key  {issued.key}")
    if issued.pkcs12 is not None:
        typer.echo(f"# PKCS#12      {issued.pkcs12}")


def _print_node(issued: Issued) -> None:
    from gateway.tls.certificates import shown

    entry = issued.entry
    titles = entry.ae_titles or (entry.name.upper()[:16],)
    name = entry.dns[0] if entry.dns else entry.name
    lines = [
        "[[nodes]]",
        f'name = "{entry.name}"',
        f"ae_titles = {jsonlib.dumps(list(titles))}",
        'roles = ["store"]  # of "store", "read", "recover"',
        "certificates = [",
        f'  "{shown(entry.sha256)}",',
        "]",
        "# or, good for its renewed certificates too:",
        f'# certificate_names = ["{name}"]',
    ]
    typer.echo("\n".join(lines))


def _print_tls(
    authority: SiteAuthority, issued: Issued, passphrase: str | None
) -> None:
    def path(one: Path) -> str:
        return jsonlib.dumps(str(one.absolute()))

    assert issued.key is not None
    lines = ["[tls]", f"certificate = {path(issued.certificate)}"]
    lines.append(f"key = {path(issued.key)}")
    if passphrase is not None:
        lines.append(f"key_passphrase = {jsonlib.dumps(passphrase)}")
    lines.append(f"authorities = [{path(authority.certificate)}]")
    lines.append(f"revocation_lists = [{path(authority.revocation_list)}]")
    typer.echo("\n".join(lines))
