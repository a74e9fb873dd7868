"""``miad-gateway keys``: master keys, their backup, and the signer's certificate."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli import key_backup, key_erase, key_rotate, key_token
from gateway.cli.options import JsonOption

app = typer.Typer(no_args_is_help=True, help="Keys and certificates of a site.")


@app.callback()
def _keys() -> None:
    """Keys and certificates of a site."""


@app.command()
def signer(
    site: Annotated[
        Path | None,
        typer.Option(
            "--site", exists=True, file_okay=False, help="Site or data directory."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Write the PEM file here."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show the certificate with which the site signs keys that travel in objects.

    Made on first use. Recipients name it to ``recover --signer``; tell them the
    fingerprint by another way than the file.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from gateway.stages.offline import OfflineSite, default_site
    from gateway.vault.signer import fingerprint, load_signer

    if output is not None and output.exists():
        raise typer.BadParameter(f"{output} is there", param_hint="--output")
    chosen = default_site() if site is None else OfflineSite(site)
    certificate = load_signer(chosen.secrets()).certificate
    pem = certificate.public_bytes(Encoding.PEM).decode("ascii")
    mark = fingerprint(certificate)
    if output is not None:
        output.write_text(pem, encoding="ascii")
    if json:
        typer.echo(jsonlib.dumps({"sha256": mark, "certificate": pem}))
        return
    typer.echo(f"SHA-256 {mark}", err=output is None)
    typer.echo(f"certificate in {output}" if output else pem, nl=output is not None)


key_rotate.add_to(app)
key_backup.add_to(app)
key_erase.add_to(app)
key_token.add_to(app)
