"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="MIAD_CONFIG", help="The site's TOML file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
