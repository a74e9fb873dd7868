"""Make torchvision importable next to a CPU build of torch.

The compiled part of torchvision's wheel is linked against the CUDA build of
torch. Next to a CPU build it does not load, the operators ``nms`` and ``qnms``
stay undeclared, and importing torchvision fails with ``operator
torchvision::nms does not exist``; timm and pytorch-grad-cam import it and fail
with it. Declaring the two schemas is enough: nothing here calls them. Where
torchvision loads by itself this does nothing.

Call `ensure_torchvision` before anything imports timm, torchvision or
pytorch-grad-cam.
"""

from __future__ import annotations

import importlib
import sys

import torch
from torch import nn

from engine.errors import InvalidParameter

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("torchvision::nms", "torchvision::qnms")


def ensure_torchvision() -> None:
    """Import torchvision, declaring its missing operators if it needs them.

    Raises
    ------
    RuntimeError
        If torchvision fails for any other reason than the missing operators.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in _OPERATORS:
            torch.library.define(operator, _SCHEMA)
        importlib.import_module("torchvision")


def channels_last(module: nn.Module) -> None:
    """Lay out convolution weights channels last, which is faster on CPUs."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(
                memory_format=torch.channels_last
            )


def usable_device(name: str) -> torch.device:
    """Resolve a device name such as ``cpu`` or ``cuda``.

    Raises
    ------
    InvalidParameter
        If torch cannot compute on it here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidParameter(
            f"device={name!r} cannot be used here ({reason}); use cpu"
        ) from error
    return device
