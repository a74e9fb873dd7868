"""A copy of an ensemble that judges faster: batch norms folded into convolutions.

A batch norm in evaluation mode is an affine map per channel; where it stands right
behind a convolution and nothing else reads that convolution, both are one
convolution with other weights (Jacob et al. 2018, section 3.2). The copy keeps the
modules' names and layout, so Grad-CAM and features work on it, and its gradients
with respect to images are those of the original.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Final, cast

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from typing_extensions import override

from engine.models.classifier import Classifier
from engine.models.compat import channels_last
from engine.models.ensemble import Ensemble

_LAYERS: Final = (nn.Conv2d, nn.BatchNorm2d)


class _Tracer(fx.Tracer):
    """Records convolutions and batch norms; looks into what holds any."""

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, _LAYERS):
            return True
        # Whatever holds no such layer may branch on shapes: it is not traced.
        holds = any(isinstance(part, _LAYERS) for part in m.modules())
        return not holds or super().is_leaf_module(m, module_qualified_name)


def for_search(ensemble: Ensemble) -> Ensemble:
    """Copy an ensemble for many forward passes and gradients of images.

    Parameters
    ----------
    ensemble
        In evaluation mode. It is not changed.

    Returns
    -------
    Ensemble
        Same name, labels, weights β and kind of Eq. 12; its logits equal those
        of `ensemble` up to the rounding of float32. Its weights are fixed and
        no longer fit the cards: do not save or train it.
    """
    members = [fast_classifier(member) for member in ensemble.members]
    beta = [float(weight) for weight in ensemble.weights]
    quick = Ensemble(ensemble.name, members, beta, combine=ensemble.combine)
    return quick.to(ensemble.weights.device).eval()


def fast_classifier(model: Classifier) -> Classifier:
    """Copy one classifier with its batch norms folded, see `for_search`."""
    quick = copy.deepcopy(model).eval()
    fold_batch_norms(getattr(quick, "backbone", quick))
    quick.requires_grad_(requires_grad=False)
    channels_last(quick)
    return quick


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> int:
    """Fold, in place, each batch norm that only follows a convolution.

    Parameters
    ----------
    network
        In evaluation mode. Parts that cannot be traced are looked into one by
        one, so that the rest is folded all the same.

    Returns
    -------
    int
        How many were folded; 0 leaves the network as it was.
    """
    pairs = _pairs(network)
    for conv_path, norm_path in pairs:
        conv = cast("nn.Conv2d", network.get_submodule(conv_path))
        norm = cast("nn.BatchNorm2d", network.get_submodule(norm_path))
        _fold(conv, norm)
        network.set_submodule(norm_path, _rest_of(norm))
    return len(pairs)


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Paths of convolutions and of the batch norms that alone read them."""
    graph = _traced(network)
    if graph is not None:
        return _pairs_in(graph, dict(network.named_modules()))
    return [
        (f"{name}.{conv}", f"{name}.{norm}")
        for name, child in network.named_children()
        for conv, norm in _pairs(child)
    ]


def _traced(network: nn.Module) -> fx.Graph | None:
    try:
        return _Tracer().trace(network)
    # Tracing runs the network's own code on stand-ins for tensors: a branch on
    # a value or a shape may raise whatever that code raises.
    except Exception:  # noqa: BLE001
        return None


def _pairs_in(graph: fx.Graph, modules: dict[str, nn.Module]) -> list[tuple[str, str]]:
    calls = Counter(str(n.target) for n in graph.nodes if n.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            continue
        source = node.all_input_nodes[0]
        if source.op != "call_module" or len(source.users) != 1:
            continue
        conv_path, norm_path = str(source.target), str(node.target)
        once = calls[conv_path] == calls[norm_path] == 1
        if once and _foldable(modules[conv_path], modules[norm_path]):
            pairs.append((conv_path, norm_path))
    return pairs


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        isinstance(conv, nn.Conv2d)
        and isinstance(norm, nn.BatchNorm2d)
        and norm.running_mean is not None
    )


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """Keep what a batch norm does besides: timm's kind has an activation."""
    return getattr(norm, "act", nn.Identity())
