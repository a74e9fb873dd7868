"""``miad-gateway health``: whether the processes of this machine run."""

from __future__ import annotations

import fcntl
import json
import socket
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.options import ConfigOption

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.app.places import Places

SECONDS: Final = 5.0


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("health")(health)


def health(
    config: ConfigOption,
    process: Annotated[
        str, typer.Argument(help="receiver, web, auditor, serve, or worker-0 ...")
    ] = "receiver",
) -> None:
    """Exit with 0 if a process of this machine runs and takes connections.

    For a container's health check, beside it in the container. It asks nothing of
    the database or the object store: a process that waits for them is well.
    """
    from config.load import load_site
    from gateway.app.places import Places

    site = load_site(config)
    places = Places(site.data_directory)
    hosts = {"receiver": site.receiver.host, "web": site.web.host}
    wrong = _wrong(places, process, hosts.get(process, ""))
    if wrong:
        typer.echo(f"{process}: {wrong}", err=True)
        raise typer.Exit(1)
    typer.echo(f"{process}: well")


def _wrong(places: Places, process: str, host: str) -> str:
    if not _is_held(places.lock(process)):
        return "does not run"
    file = {"receiver": places.ports, "web": places.web_port}.get(process)
    if file is None:
        return ""
    try:
        ports = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return "does not listen yet"
    for name, port in ports.items():
        if name != "pid" and port and not _answers(host, port):
            return f"port {port} takes no connection"
    return ""


def _is_held(lock: Path) -> bool:
    """Whether a process of this machine holds a lock."""
    try:
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _answers(host: str, port: int) -> bool:
    here = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound
    try:
        socket.create_connection((here.get(host, host), port), SECONDS).close()
    except OSError:
        return False
    return True
