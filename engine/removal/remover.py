"""Load and save removers: removal networks with their model cards."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import nn
from typing_extensions import override

from engine.errors import ModelError
from engine.models.card import ModelCard, digest, read_card
from engine.models.classifier import load_weights
from engine.models.compat import channels_last
from engine.removal.network import Removal, RemovalNetwork
from engine.removal.splitnet import SplitNet
from engine.removal.wdnet import WDNet

ARCHITECTURES: Final[dict[str, type[WDNet | SplitNet]]] = {
    "splitnet": SplitNet,
    "wdnet": WDNet,
}
"""Networks a card may name."""


class Remover(nn.Module):
    """A trained watermark remover.

    Attributes
    ----------
    name
        From the card.
    """

    def __init__(self, network: RemovalNetwork, card: ModelCard) -> None:
        super().__init__()
        self.network = network
        self.card = card
        self.name = card.name

    @override
    def forward(self, x: torch.Tensor) -> Removal:
        """Remove the mark from ``(N, 3, H, W)`` float in [0, 1], any size.

        Differentiable in `x`; no parameter needs a gradient.
        """
        removal: Removal = self.network(x)
        return removal


def build_network(architecture: str, arguments: dict[str, Any]) -> RemovalNetwork:
    """Untrained network by the name and arguments on a card.

    Parameters
    ----------
    architecture
        "wdnet" or "splitnet".
    arguments
        Sizes to change, see `engine.removal.wdnet.WDNetSizes` and
        `engine.removal.resunet.SplitNetSizes`.

    Raises
    ------
    ModelError
        If the network is unknown or does not take the arguments.
    """
    factory = ARCHITECTURES.get(architecture)
    if factory is None:
        raise ModelError(
            f"unknown removal network {architecture!r}; known: "
            f"{', '.join(sorted(ARCHITECTURES))}"
        )
    try:
        return factory(**arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ModelError(
            f"removal network {architecture!r} does not take {arguments} ({error})"
        ) from error


def load_remover(path: Path, device: str | torch.device = "cpu") -> Remover:
    """Load a remover from its directory or card.

    Returns
    -------
    Remover
        float32, in evaluation mode, batch norms folded into the convolutions,
        no parameter gradients.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the weights do not fit the card.
    """
    card_file, card = read_card(path)
    network = build_network(card.architecture, card.architecture_arguments)
    load_weights(network, card_file.with_suffix(".safetensors"))
    network.eval().fuse()
    channels_last(network)
    remover = Remover(network, card).eval()
    for parameter in remover.parameters():
        parameter.requires_grad = False
    return remover.to(device)


def save_remover(
    network: RemovalNetwork, card: ModelCard, directory: Path
) -> ModelCard:
    """Write ``NAME.safetensors`` (fp16) and ``NAME.json``; the card as written."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = directory / f"{card.name}.safetensors"
    tensors = {
        key: value.half().contiguous()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    weights.write_bytes(save(tensors))
    card = card.with_digest(digest(weights))
    card.write(directory / f"{card.name}.json")
    return card


def packaged_removers() -> dict[str, Path]:
    """List the removers the package ships: name to directory."""
    root = Path(str(resources.files("engine.removal"))) / "weights"
    if not root.is_dir():
        return {}
    return {p.name: p for p in sorted(root.iterdir()) if any(p.glob("*.json"))}
