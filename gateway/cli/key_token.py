"""``miad-gateway keys make-in-token``: a master key in a PKCS#11 token."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated

import typer

from gateway.cli.key_site import open_site
from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import ConfigurationError


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("make-in-token")(make_in_token)


def make_in_token(
    config: ConfigOption,
    source: Annotated[
        str | None,
        typer.Argument(help="pkcs11:... (RFC 7512); else vault.master_key."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a master key in a token, which it never leaves.

    For a site that has sealed data: name the token in vault.master_key and the
    key of before in vault.previous_keys, make the key, then give keys rotate.
    """
    from gateway.sealing.providers import PKCS11, PROCESS
    from gateway.sealing.token import make_token_key

    site = open_site(config)
    where = source or site.site.vault.master_key
    if not where.startswith(f"{PKCS11}:"):
        raise ConfigurationError(
            "no token is named: give pkcs11:..., or set vault.master_key to it"
        )
    with site.alone():
        key_id = make_token_key(where, site.site.data_directory, PROCESS)
        site.record("key-made", key_id=key_id, where=PKCS11)
    if json:
        typer.echo(jsonlib.dumps({"key_id": key_id}))
        return
    typer.echo(f"master key {key_id} is in the token")
    typer.echo(
        "nobody can copy it out: without the token, or its own backup, what is "
        "sealed under it is lost",
        err=True,
    )
