"""The command line ``miad-gateway``."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from config.errors import ConfigurationError
from engine.errors import EngineError
from gateway import log
from gateway.cli import config, health, serve, site
from gateway.errors import GatewayError
from gateway.sealing.process import harden_process

EXIT_FAILURE = 1
EXIT_CONFIGURATION = 2

# The processes of `serve`: they start often and load nothing they do not use.
CHILDREN = frozenset({"receiver", "worker", "auditor", "web"})


def main() -> None:
    """Run the command line; errors are one sentence, without a traceback.

    Exit codes: 0 done; 1 it could not be done; 2 wrong configuration or use.
    """
    harden_process()  # any command may come to hold a key or a patient's image
    log.configure("warning")  # `serve` and its parts set what the site says
    try:
        build_app(children_only=sys.argv[1:2] in [[name] for name in CHILDREN])()
    except ConfigurationError as error:
        _fail(error, EXIT_CONFIGURATION)
    except (GatewayError, EngineError, OSError) as error:
        _fail(error, EXIT_FAILURE)


def build_app(*, children_only: bool = False) -> typer.Typer:
    """Return the command line, or only the part that `serve` starts."""
    app = typer.Typer(
        name="miad-gateway",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Protect outbound medical images; give originals back bit for bit.",
    )
    app.callback()(_options)
    serve.add_to(app)
    if not children_only:
        config.add_to(app)
        site.add_to(app)
        health.add_to(app)
        _add_tools(app)
    return app


def _add_tools(app: typer.Typer) -> None:
    from gateway.cli import (
        approvals,
        audit,
        demo,
        experiment,
        files,
        grants,
        jobs,
        keeping,
        keys,
        models,
        pki,
    )

    app.add_typer(files.app)
    app.add_typer(demo.app)
    keeping.add_to(app)
    app.add_typer(keys.app, name="keys")
    app.add_typer(audit.app, name="audit")
    app.add_typer(jobs.app, name="jobs")
    app.add_typer(grants.app, name="grants")
    app.add_typer(approvals.app, name="approvals")
    app.add_typer(models.app, name="models")
    app.add_typer(pki.app, name="pki")
    app.add_typer(experiment.app, name="experiment")


def _show_version(shown: bool) -> None:
    if shown:
        typer.echo(f"miad-gateway {version('miad-gateway')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Protect outbound medical images; give originals back bit for bit."""


def _fail(error: BaseException, code: int) -> None:
    typer.echo(f"error: {error}", err=True)
    raise SystemExit(code) from error


if __name__ == "__main__":
    main()
