"""``miad-gateway keys backup``, ``restore`` and ``rehearse``."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.key_site import KeySite, open_site
from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import BackupRefused, GatewayError, InvalidSeal, PassphraseMissing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gateway.sealing.census import Census

ADVICE_SHARES: Final = (
    "hand each to another person, print them or copy them by hand, and remove the files"
)
ADVICE_EXPORT: Final = "keep it off this machine, and the passphrase in another place"

SharesArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="SHARE", help="Files of shares, or of their words."),
]
ExportOption = Annotated[
    Path | None,
    typer.Option("--export", dir_okay=False, metavar="FILE", help="Encrypted export."),
]
EnvOption = Annotated[
    str | None,
    typer.Option(
        "--passphrase-env",
        metavar="NAME",
        help="Environment variable with the passphrase; without it you are asked.",
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", dir_okay=False, help="File (mode 0600) with it."),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("backup")(backup)
    app.command("restore")(restore)
    app.command("rehearse")(rehearse)


def backup(  # noqa: PLR0913 - the options of a typer command are its arguments
    config: ConfigOption,
    *,
    shares: Annotated[int, typer.Option(help="Make so many shares,")] = 0,
    threshold: Annotated[int, typer.Option(help="of which so many are needed.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", file_okay=False, help="Folder for them.")
    ] = None,
    export: ExportOption = None,
    passphrase_env: EnvOption = None,
    passphrase_file: FileOption = None,
) -> None:
    """Back the current master key up: as shares for people, or as a file.

    Shares are words on paper: any THRESHOLD of them give the key back. An
    export is one file under a passphrase. Either opens all originals of the
    site; nothing else does once the key is lost.
    """
    site = open_site(config)
    as_export = export is not None and not (shares or threshold or out)
    as_shares = export is None and shares and threshold and out is not None
    if not (as_export or as_shares):
        raise typer.BadParameter(
            "give either --shares, --threshold and --out, or --export"
        )
    with site.alone():
        key_id, secret = _current(site)
        if export is not None:
            passphrase = _passphrase(passphrase_env, passphrase_file, new=True)
            files = {export: _export(site, key_id, secret, passphrase)}
            kind, told = "export", ADVICE_EXPORT
        else:
            made = _shares(site, key_id, secret, shares, threshold)
            files = {(out or Path()) / name: text for name, text in made.items()}
            kind, told = f"{shares} shares, {threshold} needed", ADVICE_SHARES
        _check_free(files)
        site.record("key-backup", key_id=key_id, kind=kind)  # before it is written
        _write(files)
        site.note(key_id, backup=_now())
    typer.echo(f"master key {key_id} is in {', '.join(map(str, files))}: {told}")
    typer.echo("try it now, while nothing is lost: miad-gateway keys rehearse")


def restore(
    config: ConfigOption,
    shares: SharesArgument = None,
    export: ExportOption = None,
    passphrase_env: EnvOption = None,
    passphrase_file: FileOption = None,
    previous: Annotated[
        bool,
        typer.Option("--previous", help="It is a key of before the current one."),
    ] = False,
) -> None:
    """Put a lost master key back, from shares or an export.

    It is tried on the site's files first, and written only if it opens them and
    no other key is in its place.
    """
    site = open_site(config)
    with site.alone():
        try:
            key_id, secret = _from_backup(
                shares, export, passphrase_env, passphrase_file
            )
            opened = _try(site, secret, everything=False)
            path = _put_back(site, secret, previous=previous)
        except GatewayError as error:
            site.refuse("key-restore", error)
            raise
        site.record("key-restore", key_id=key_id, opened=opened)
        site.note(key_id, rehearsal=_now())
    typer.echo(f"master key {key_id} is back in {path}; {opened} files opened with it")


def rehearse(  # noqa: PLR0913 - as above
    config: ConfigOption,
    *,
    shares: SharesArgument = None,
    export: ExportOption = None,
    passphrase_env: EnvOption = None,
    passphrase_file: FileOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Open every file, not a sample.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Restore a key into memory only and open files with it; changes nothing.

    For a running site: so a backup is known to work before it is needed. The
    audit trail and keys status say when it was last done.
    """
    site = open_site(config)
    with site.alone():
        try:
            key_id, secret = _from_backup(
                shares, export, passphrase_env, passphrase_file
            )
            opened = _try(site, secret, everything=everything)
        except GatewayError as error:
            site.refuse("key-restore", error, rehearsal="yes")
            raise
        site.record("key-restore", key_id=key_id, opened=opened, rehearsal="yes")
        site.note(key_id, rehearsal=_now())
    if json:
        typer.echo(jsonlib.dumps({"key_id": key_id, "opened": opened}))
    else:
        typer.echo(f"the backup of master key {key_id} works: {opened} files opened")


# making


def _current(site: KeySite) -> tuple[str, bytes]:
    from gateway.sealing.backup import secret_of
    from gateway.sealing.master import key_id_of

    site.ring.current()  # makes it where nothing is sealed yet
    secret = secret_of(site.provider)
    return key_id_of(secret), secret


def _shares(
    site: KeySite, key_id: str, secret: bytes, count: int, threshold: int
) -> dict[str, bytes]:
    from gateway.sealing.shamir import split

    made = split(
        secret, site=site.site.name, key_id=key_id, count=count, threshold=threshold
    )
    return {share.name: share.document().encode() for share in made}


def _export(site: KeySite, key_id: str, secret: bytes, passphrase: str) -> bytes:
    from gateway.sealing.backup import Export, open_export, seal_export

    made = Export(site=site.site.name, key_id=key_id, secret=secret)
    sealed = seal_export(made, passphrase)
    if open_export(sealed, passphrase) != made:
        raise BackupRefused("the export does not give the key back; none was written")
    return sealed


def _check_free(files: Iterable[Path]) -> None:
    for path in files:
        if path.exists():
            raise BackupRefused(f"{path} is there; name another place")


def _write(files: Mapping[Path, bytes]) -> None:
    from gateway.sealing.secretfile import create_once

    for path, octets in files.items():
        create_once(path, octets)


# opening


def _from_backup(
    shares: list[Path] | None,
    export: Path | None,
    passphrase_env: str | None,
    passphrase_file: Path | None,
) -> tuple[str, bytes]:
    from gateway.sealing.backup import open_export
    from gateway.sealing.master import key_id_of
    from gateway.sealing.shamir import combine

    if bool(shares) == (export is not None):
        raise typer.BadParameter("give either the files of shares, or --export FILE")
    if export is not None:
        passphrase = _passphrase(passphrase_env, passphrase_file, new=False)
        opened = open_export(export.read_bytes(), passphrase)
        secret, named = opened.secret, opened.key_id
    else:
        texts = {str(path): _text(path) for path in shares or []}
        shared = combine(texts)
        secret, named = shared.secret, shared.key_id
    key_id = key_id_of(secret)
    if named and named != key_id:
        raise BackupRefused(f"the backup says it is of key {named}, but it is not")
    return key_id, secret


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BackupRefused(f"{path} is not a text of words") from None


def _try(site: KeySite, secret: bytes, *, everything: bool) -> int:
    """Open files of the site with the key; how many.

    Raises
    ------
    BackupRefused
        It is the key of none of them, or does not open one.
    """
    from gateway.sealing.master import LocalMasterKey, key_id_of
    from gateway.store.rewrap import open_objects
    from gateway.vault.rehearsal import SAMPLE, open_files

    key_id = key_id_of(secret)
    census = site.census()
    if not (census.under[key_id] or census.old):
        raise BackupRefused(_not_of_this_site(key_id, census))
    if site.objects is not None:
        most = census.files if everything else SAMPLE
        try:
            return open_objects(site.objects, LocalMasterKey(secret), key_id, most)
        except InvalidSeal as error:
            raise BackupRefused(f"key {key_id} does not open an object") from error
    return open_files(site.places.root, site.places.vault, secret, everything)


def _not_of_this_site(key_id: str, census: Census) -> str:
    if not census.under:
        return f"this site has no sealed files to try key {key_id} on"
    names = ", ".join(sorted(census.under))
    return (
        f"the backup is of key {key_id}; the files of this site are under {names}: "
        "it is of another site, or of a key of before"
    )


def _put_back(site: KeySite, secret: bytes, *, previous: bool) -> Path:
    from gateway.sealing.keyfile import KeyFile
    from gateway.sealing.providers import FileProvider

    if not isinstance(site.provider, FileProvider):
        raise BackupRefused(
            "the master key of this site is not in a file, so it cannot be put back "
            "from here: set vault.master_key to a file: source, restore, and move "
            "the key from the file to where it belongs"
        )
    return KeyFile(site.provider.path).put_back(secret, previous=previous)


# passphrases


def _passphrase(env: str | None, file: Path | None, *, new: bool) -> str:
    """Passphrase from where it was said to be; never from the command line."""
    if env is not None:
        found = os.environ.get(env, "")
        if not found:
            raise PassphraseMissing(
                f"environment variable {env} is not set; it should hold the passphrase"
            )
        return found
    if file is not None:
        return _from_file(file)
    if not sys.stdin.isatty():
        raise PassphraseMissing(
            "an export has a passphrase: put it into an environment variable and "
            "name that with --passphrase-env, or into a file of mode 0600 and name "
            "that with --passphrase-file"
        )
    asked: str = typer.prompt(
        "Passphrase", hide_input=True, confirmation_prompt=new, err=True
    )
    return asked


def _from_file(path: Path) -> str:
    from gateway.sealing.providers import read_secret

    return read_secret(f"file:{path.absolute()}", Path()).decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
