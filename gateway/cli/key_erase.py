"""``miad-gateway keys erase``: originals nobody can have back."""

from __future__ import annotations

import json as jsonlib
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.key_site import KeySite, open_site, operator
from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import GatewayError, RecordMissing

if TYPE_CHECKING:
    from gateway.store.erasure import Erasable, Erasure

InstanceOption = Annotated[
    str | None,
    typer.Option(
        "--sop-instance",
        metavar="UID",
        help="Of an original, or of a protected object made of it.",
    ),
]
StudyOption = Annotated[
    str | None, typer.Option("--study", metavar="UID", help="Study Instance UID.")
]


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("erase")(erase)


def erase(
    config: ConfigOption,
    sop_instance: InstanceOption = None,
    study: StudyOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Without it, only shows what would go.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Destroy the keys of originals, then their files and rows: for good.

    The protected objects at the site go with them. Copies that were sent out
    stay where they are; nobody can recover them with this site any more. Not
    reached: keys that were enclosed for recipients, and backups of the data
    directory made before.
    """
    from gateway.app.openers import open_index_of
    from gateway.store.erasure import Erasure

    if (sop_instance is None) == (study is None):
        raise typer.BadParameter("give either --sop-instance UID or --study UID")
    site = open_site(config)
    with site.alone(), closing(open_index_of(site.site, site.ring)) as index:
        erasure = Erasure(index.database)
        chosen = _chosen(erasure, sop_instance, study)
        if yes:
            _erase(site, erasure, chosen)
            if study is not None:
                site.audit.record(
                    "key-erasure",
                    "success",
                    operator=operator(),
                    studies=[study],
                    instances=len(chosen),
                )
    _tell(chosen, done=yes, json=json)


def _chosen(
    erasure: Erasure, sop_instance: str | None, study: str | None
) -> list[Erasable]:
    chosen = (
        erasure.of_study(study)
        if study is not None
        else erasure.of_object(sop_instance or "")
    )
    if not chosen:
        raise GatewayError(
            "this site holds no such object; see miad-gateway status for what it has"
        )
    erasure.check_settled(chosen)
    return chosen


def _erase(site: KeySite, erasure: Erasure, chosen: list[Erasable]) -> None:
    """Keys first, then files, then rows: after a kill it is given again.

    The trail names an object before anything of it is touched.
    """
    from gateway.app.openers import open_store_of, open_vault_of

    vault = open_vault_of(site.site, site.ring)
    store = open_store_of(site.site, site.ring)
    for each in chosen:
        site.audit.record(
            "key-erasure",
            "success",
            operator=operator(),
            sop_instance_uid=each.sop_instance_uid,
            protected_uids=list(each.protected_uids),
        )
        for uid in each.protected_uids:
            try:
                vault.erase(uid)
            except RecordMissing:
                continue  # went with another part of the same original
        for relative in each.paths:
            store.destroy(relative)
        erasure.remove(each)


def _tell(chosen: list[Erasable], *, done: bool, json: bool) -> None:
    parts = sum(len(each.protected_uids) for each in chosen)
    if json:
        told = {
            "erased": done,
            "originals": [each.sop_instance_uid for each in chosen],
            "protected": [uid for each in chosen for uid in each.protected_uids],
        }
        typer.echo(jsonlib.dumps(told))
        return
    what = f"{len(chosen)} originals and {parts} protected objects made of them"
    if done:
        typer.echo(f"erased: {what}; nothing gives the originals back any more")
    else:
        typer.echo(f"would erase {what}; say --yes to do it, it cannot be undone")
