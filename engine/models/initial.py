"""Start training from the weights of another file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from engine.errors import ModelError

Tensors = dict[str, torch.Tensor]


def load_initial(module: nn.Module, path: Path) -> int:
    """Copy into `module` every tensor of `path` that has its place there.

    By name where the names agree; otherwise, when both sides list equally many
    tensors, by order (weights published for another implementation of the same
    architecture). A last layer for other classes is left as it is.

    Parameters
    ----------
    path
        ``.safetensors``, or a PyTorch state dict (``.pth``, ``.pt``).

    Returns
    -------
    int
        How many tensors were copied.

    Raises
    ------
    ModelError
        If the file is unreadable or fewer than nine in ten tensors fit.
    """
    given = _without_counters(_read(path))
    own = _without_counters(module.state_dict())
    if len(given.keys() & own.keys()) * 2 < len(own) and len(given) == len(own):
        given = dict(zip(own, given.values(), strict=True))
    fitting = {k: v for k, v in given.items() if k in own and v.shape == own[k].shape}
    if len(fitting) * 10 < len(own) * 9:
        raise ModelError(
            f"{path}: only {len(fitting)} of {len(own)} tensors fit; it holds the "
            "weights of another architecture"
        )
    module.load_state_dict(fitting, strict=False)
    return len(fitting)


def _read(path: Path) -> Tensors:
    if not path.is_file():
        raise ModelError(f"{path}: no such file of initial weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        raise ModelError(f"{path}: not readable as weights ({error})") from error
    except Exception as error:  # pickle.UnpicklingError and what zip files raise
        raise ModelError(f"{path}: not a PyTorch state dict ({error})") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path}: holds a {type(state).__name__}, not a state dict")
    return {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}


def _without_counters(tensors: Tensors) -> Tensors:
    return {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
