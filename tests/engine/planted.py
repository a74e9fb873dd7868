"""Small models whose behaviour is known, for tests of the search."""

from __future__ import annotations

import torch
from torch import nn

from engine.models.ensemble import Ensemble
from engine.removal.wdnet import Removal

LABELS = ("healthy", "ill")


class PlantedClassifier(nn.Module):
    """Says class 0 unless the picture was changed in one known place.

    ``window`` is (x0, y0, x1, y1) on a grid of 224; when the mean absolute
    difference to `clean` there exceeds `threshold` it says class 1. The logit
    of class 0 also grows with the brightness in the ``lesion`` window, which
    is what Grad-CAM finds.
    """

    family = "planted"
    cam_reshape = None
    labels = LABELS

    def __init__(
        self,
        clean: torch.Tensor,
        window: tuple[int, int, int, int],
        *,
        threshold: float = 0.08,
        lesion: tuple[int, int, int, int] = (100, 100, 130, 125),
        name: str = "planted",
    ) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("clean", clean)
        self.window = window
        self.threshold = threshold
        self.maps = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.maps.weight, 1 / 3)
        self.maps.weight.requires_grad = False
        place = torch.zeros(1, 1, 224, 224)
        x0, y0, x1, y1 = lesion
        place[..., y0:y1, x0:x1] = 1
        self.register_buffer("place", place)

    @property
    def cam_target_layers(self) -> list[nn.Module]:
        return [self.spot]

    def features(self, x: torch.Tensor) -> torch.Tensor:
        x0, y0, x1, y1 = self.window
        seen = x[:, :, y0:y1, x0:x1]
        return nn.functional.adaptive_avg_pool2d(seen, 4).flatten(1) + 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x0, y0, x1, y1 = self.window
        moved = (x - self.clean)[:, :, y0:y1, x0:x1].abs().mean(dim=(1, 2, 3))
        lit = self.spot(x).mean(dim=(1, 2, 3))
        ill = 40 * (moved - self.threshold)
        return torch.stack([lit - ill, ill], dim=1)


class _Spot(nn.Module):
    def __init__(self, owner: PlantedClassifier) -> None:
        super().__init__()
        self.conv = owner.maps
        self.register_buffer("place", owner.place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * self.place


def planted_ensemble(
    clean: torch.Tensor,
    *windows: tuple[int, int, int, int],
    threshold: float = 0.08,
) -> Ensemble:
    """One member per window; the ensemble is deceived when most are."""
    members = []
    for i, window in enumerate(windows):
        member = PlantedClassifier(
            clean, window, threshold=threshold, name=f"planted-{i}"
        )
        member.spot = _Spot(member)
        members.append(member)
    return Ensemble("planted", members).eval()


class PlantedRemover(nn.Module):
    """Returns a blurred picture: its error grows with contrast in the input."""

    name = "planted"

    def forward(self, x: torch.Tensor) -> Removal:
        image = nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
        blank = torch.zeros_like(x[:, :1])
        return Removal(image=image, mask=blank, alpha=blank, watermark=image)
