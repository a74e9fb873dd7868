"""``miad-gateway demo``: the main job on loopback, with real images."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()

TABLE_COLUMNS = 190


@app.command("demo")
def demo(
    report: Annotated[
        Path, typer.Option(help="Directory for index.html and its pictures.")
    ] = Path("demo-report"),
    json: Annotated[
        Path | None, typer.Option(help="Write the table as JSON to this file.")
    ] = None,
) -> None:
    """Run the main job end to end on loopback; exit 1 if a promise did not hold."""
    # The stranger is refused on purpose; the table says so, once.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    from gateway.demo.run import run_demo
    from gateway.errors import GatewayError

    # Where nobody looks at a terminal, the table need not fold into 80 columns.
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_COLUMNS)
    try:
        held = run_demo(report, json, console)
    except GatewayError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(1) from error
    if not held:
        raise typer.Exit(1)
