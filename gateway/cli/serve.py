"""``miad-gateway serve``, and its parts: receiver, worker, auditor, web."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import ConfigOption

LifelineOption = Annotated[
    int | None,
    typer.Option(hidden=True, help="Descriptor that closes when the parent ends."),
]

SharingOption = Annotated[
    str | None,
    typer.Option(hidden=True, help="What one of several processes inherits."),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("serve")(serve)
    app.command("receiver")(receiver)
    app.command("worker")(worker)
    app.command("auditor")(auditor)
    app.command("web")(web)


def serve(config: ConfigOption) -> None:
    """Run the whole gateway: its parts, each restarted when it ends."""
    from gateway.app.serve import serve as supervise
    from gateway.route.rules import load_checked

    supervise(config, load_checked(config))


def receiver(
    config: ConfigOption,
    lifeline: LifelineOption = None,
    sharing: SharingOption = None,
) -> None:
    """Run only the part that receives objects and gives originals back."""
    _end_with_parent(lifeline)
    if sharing is None:
        from gateway.app.receivers import run_receivers

        run_receivers(config)
    else:
        from gateway.app.receiver import run_receiver
        from gateway.app.sharing import Sharing

        run_receiver(config, Sharing.decode(sharing))
    _leave()


def worker(
    config: ConfigOption,
    lifeline: LifelineOption = None,
    slot: Annotated[
        int, typer.Option(min=0, help="Which of this machine's workers it is.")
    ] = 0,
) -> None:
    """Run only the part that routes, protects and sends."""
    _end_with_parent(lifeline)
    from gateway.app.worker import run_worker

    run_worker(config, slot)


def web(config: ConfigOption, lifeline: LifelineOption = None) -> None:
    """Run only the part that answers over HTTPS: console and DICOMweb."""
    _end_with_parent(lifeline)
    from gateway.app.web import run_web

    run_web(config)
    _leave()


def auditor(config: ConfigOption, lifeline: LifelineOption = None) -> None:
    """Run only the part that signs the audit trail and sends it on."""
    _end_with_parent(lifeline)
    from gateway.app.auditor import run_auditor

    run_auditor(config)
    _leave()


def _end_with_parent(lifeline: int | None) -> None:
    """End with the supervisor, if there is one: while this part still loads too."""
    if lifeline is not None:
        from gateway.supervise import end_with_parent

        end_with_parent(lifeline)


def _leave() -> None:
    """End without taking the interpreter apart.

    It would wait for threads of an association that began in the last moment, and for
    locks that other threads held when they were ended. What was acknowledged is
    durable; peers send the rest again.
    """
    from gateway.app.process import leave

    leave()
