"""``miad-gateway keys erase`` and ``erase``: originals nobody can have back."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.key_site import KeySite, open_site, operator
from gateway.cli.options import ConfigOption, JsonOption
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.stages.erase import Erased, Eraser
    from gateway.store.erasure import Erasable

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
StudyArgument = Annotated[
    str | None,
    typer.Argument(metavar="[STUDY_UID]", help="Its own, or a protected one."),
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Without it, only shows what would go.")
]


def add_to(app: typer.Typer) -> None:
    """Add ``keys erase``."""
    app.command("erase")(erase)


def add_study_to(app: typer.Typer) -> None:
    """Add ``erase``."""
    app.command("erase")(erase_study)


def erase(
    config: ConfigOption,
    sop_instance: InstanceOption = None,
    study: StudyOption = None,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Destroy the keys of originals, then their files and rows: for good.

    The protected objects at the site go with them. Copies that were sent out
    stay where they are; nobody can recover them with this site any more. Not
    reached: keys that were enclosed for recipients, and backups of the data
    directory made before.
    """
    if (sop_instance is None) == (study is None):
        raise typer.BadParameter("give either --sop-instance UID or --study UID")
    with _eraser(open_site(config)) as eraser:
        if study is not None:
            chosen = eraser.chosen(study)
        else:
            chosen = _objects(eraser, sop_instance or "")
        if yes and study is not None:
            _tell(eraser.erase_study(study, action="key-erasure"), json=json)
        elif yes:
            _tell(eraser.erase_objects(chosen), json=json)
        else:
            _show(chosen, json=json)


def erase_study(  # noqa: PLR0913, PLR0917 - options of a command
    config: ConfigOption,
    study: StudyArgument = None,
    patient: Annotated[
        str | None,
        typer.Option("--patient", metavar="ID", help="All studies of a Patient ID."),
    ] = None,
    reason: Annotated[
        str, typer.Option("--reason", help="For the audit trail; needed with --yes.")
    ] = "",
    wait: Annotated[
        float, typer.Option("--wait", help="Seconds that work under way may take.")
    ] = 600.0,
    yes: YesOption = False,
    json: JsonOption = False,
) -> None:
    """Erase a study from this site: keys, files, rows; nothing gives it back.

    Whatever is under way with it is stopped first, and nothing of it leaves any
    more. May be given again after it was cut off. Not reached: objects that were
    sent out before, keys enclosed in them, and backups.
    """
    if (study is None) == (patient is None):
        raise typer.BadParameter("give either STUDY_UID or --patient ID")
    if yes and not reason.strip():
        raise typer.BadParameter("say why with --reason: it stays in the audit trail")
    with _eraser(open_site(config)) as eraser:
        studies = [study] if study is not None else _studies(eraser, patient or "")
        if not yes:
            _show([e for uid in studies for e in eraser.chosen(uid)], json=json)
            return
        done = [eraser.erase_study(s, reason=reason, seconds=wait) for s in studies]
        _tell(_together(done), json=json)


@contextmanager
def _eraser(site: KeySite) -> Iterator[Eraser]:
    from gateway.app.openers import (
        open_audit_of,
        open_fence_of,
        open_index_of,
        open_store_of,
        open_vault_of,
    )
    from gateway.stages.erase import Eraser
    from gateway.store.clock import utc_now
    from gateway.store.erasure import Erasure

    with (
        site.alone(),
        closing(open_index_of(site.site, site.ring)) as index,
        closing(open_fence_of(site.site)) as fence,
    ):
        yield Eraser(
            erasure=Erasure(index.database),
            store=open_store_of(site.site, site.ring),
            vault=open_vault_of(site.site, site.ring),
            audit=open_audit_of(site.site, site.ring),
            fence=fence,
            operator=operator(),
            clock=utc_now,
        )


def _objects(eraser: Eraser, uid: str) -> list[Erasable]:
    chosen = eraser.erasure.of_object(uid)
    if not chosen:
        raise GatewayError(
            "this site holds no such object; see miad-gateway status for what it has"
        )
    eraser.erasure.check_settled(chosen)
    return chosen


def _studies(eraser: Eraser, patient: str) -> list[str]:
    studies = eraser.erasure.studies_of(patient)
    if not studies:
        raise GatewayError("this site holds no study of a patient with this ID")
    return studies


def _together(done: list[Erased]) -> Erased:
    from gateway.stages.erase import Erased

    outside: dict[str, int] = {}
    for each in done:
        for name, number in each.outside:
            outside[name] = outside.get(name, 0) + number
    return Erased(
        originals=tuple(uid for each in done for uid in each.originals),
        protected=tuple(uid for each in done for uid in each.protected),
        outside=tuple(sorted(outside.items())),
        emptied=all(each.emptied for each in done),
    )


def _show(chosen: list[Erasable], *, json: bool) -> None:
    originals = [each.sop_instance_uid for each in chosen]
    protected = [uid for each in chosen for uid in each.protected_uids]
    if json:
        _print_json(erased=False, originals=originals, protected=protected)
        return
    typer.echo(
        f"would erase {len(originals)} originals and {len(protected)} protected "
        "objects made of them; say --yes to do it, it cannot be undone"
    )


def _tell(done: Erased, *, json: bool) -> None:
    if json:
        _print_json(
            erased=True,
            originals=list(done.originals),
            protected=list(done.protected),
            outside=dict(done.outside),
            emptied=done.emptied,
        )
        return
    typer.echo(
        f"erased: {len(done.originals)} originals and {len(done.protected)} protected "
        "objects made of them; nothing gives the originals back any more"
    )
    for name, number in done.outside:
        typer.echo(f"still outside: {number} objects sent to {name} before")
    if not done.emptied:
        typer.echo(
            "the index's log still holds removed rows, encrypted: others were reading; "
            "give the command keys erase or erase once more, or restart the gateway"
        )


def _print_json(**told: bool | list[str] | dict[str, int]) -> None:
    typer.echo(jsonlib.dumps(told))
