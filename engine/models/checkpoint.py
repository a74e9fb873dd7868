"""What an interrupted training goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engine.errors import ModelError


def write_checkpoint(path: Path, recipe: str, state: dict[str, Any]) -> None:
    """Write the state of a training; an interruption leaves the one before.

    Parameters
    ----------
    path
        The file.
    recipe
        All parameters in one text: only a training of the same goes on from it.
    state
        What `read_checkpoint` is to give back.
    """
    partial = path.with_name(path.name + ".partial")
    torch.save({"recipe": recipe, **state}, partial)
    partial.replace(path)


def read_checkpoint(path: Path, recipe: str) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, onto the CPU.

    Raises
    ------
    ModelError
        If it was written by a training with other parameters.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["recipe"] != recipe:
        raise ModelError(
            f"{path}: written by a training with other parameters "
            f"({state['recipe']}); delete it, or train with those"
        )
    return state
