"""Moving average of a classifier's weights during training."""

from __future__ import annotations

import copy
from typing import Any

import torch

from engine.models.classifier import Classifier


class Average:
    """Exponential moving average of a network's weights and statistics.

    Attributes
    ----------
    model
        A copy with the averaged weights, in evaluation mode.
    """

    def __init__(self, model: Classifier, decay: float) -> None:
        self.model = copy.deepcopy(model).eval()
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, model: Classifier) -> None:
        """Move towards `model`; faster at first, when the average is far off."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        mine = self.model.backbone.state_dict()
        for key, value in model.backbone.state_dict().items():
            if value.is_floating_point():
                mine[key].lerp_(value, 1 - decay)
            else:
                mine[key].copy_(value)

    def state(self) -> dict[str, Any]:
        """Give what `restore` needs to go on."""
        return {"weights": self.model.state_dict(), "updates": self._updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["weights"])
        self._updates = int(state["updates"])
