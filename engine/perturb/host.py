"""What δ is made for, one picture or many of one shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from engine.errors import InvalidFrame, InvalidParameter
from engine.types import LEVELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.params import DeltaParams

Composite: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""A mark as ``host * keep + add``, each ``(1 or 3, rows, columns)`` float32."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Host:
    """What δ is made for.

    Attributes
    ----------
    image
        The picture δ is added to, ``(C, rows, columns)`` float32 in [0, 1]; C is
        1 for grey images, which ties δ across the channels a remover sees.
    frozen
        ``(rows, columns)`` bool: where δ stays zero.
    target
        I_ori, shape of `image`; None where `image` is I_ori itself. Another one
        where δ is added after the mark.
    composites
        Random marks; step t uses the one at t modulo their number.
    start
        δ of a neighbouring slice to start from, int8 as `craft_delta` returns
        it; None for zero.
    generator
        Draws of the noise control; nothing else is random.

    Raises
    ------
    InvalidFrame
        If a picture holds NaN or values outside [0, 1], or has another shape.
    InvalidParameter
        If anything else does not fit the picture.
    """

    image: torch.Tensor
    frozen: torch.Tensor
    target: torch.Tensor | None = None
    composites: tuple[Composite, ...] = field(default=(), repr=False)
    start: NDArray[np.int8] | None = field(default=None, repr=False)
    generator: np.random.Generator | None = None

    def __post_init__(self) -> None:
        _check_picture("image", self.image)
        shape, size = tuple(self.image.shape), tuple(self.image.shape[1:])
        if self.target is not None:
            _check_picture("target", self.target)
            _check_shape("target", self.target.shape, [shape])
        _check_shape("frozen", self.frozen.shape, [size])
        if self.frozen.dtype != torch.bool:
            raise InvalidParameter(f"frozen of {self.frozen.dtype}: must be bool")
        for part in (part for pair in self.composites for part in pair):
            _check_shape("composite", part.shape, [(1, *size), (3, *size)])
        if self.start is not None:
            _check_shape("start", self.start.shape, [self.delta_shape])
            if self.start.dtype != np.int8:
                raise InvalidParameter(f"start of {self.start.dtype}: must be int8")

    @property
    def delta_shape(self) -> tuple[int, ...]:
        """Shape of δ as stored: ``(rows, columns)`` or ``(rows, columns, 3)``."""
        channels, rows, columns = self.image.shape
        return (rows, columns) if channels == 1 else (rows, columns, channels)

    @property
    def likeness(self) -> tuple[object, ...]:
        """What hosts must have in common to share forward passes."""
        shape = tuple(self.image.shape)
        marks = tuple((len(keep), len(add)) for keep, add in self.composites)
        return shape, self.image.device, marks, self.start is None


def _check_picture(name: str, picture: torch.Tensor) -> None:
    if picture.ndim != 3 or picture.shape[0] not in (1, 3) or not picture.numel():
        raise InvalidFrame(
            f"{name} of shape {tuple(picture.shape)}: need (1 or 3, rows, columns)"
        )
    if picture.dtype != torch.float32:
        raise InvalidFrame(f"{name} of {picture.dtype}: need float32 in [0, 1]")
    wrong = int((~torch.isfinite(picture)).sum())
    if wrong:
        raise InvalidFrame(f"{name} holds {wrong} values that are NaN or infinite")
    if picture.min() < 0 or picture.max() > 1:
        raise InvalidFrame(
            f"{name} holds values from {float(picture.min()):g} to "
            f"{float(picture.max()):g}: need 0 to 1; divide levels by {LEVELS}"
        )


def _check_shape(
    name: str, shape: Sequence[int], allowed: Sequence[tuple[int, ...]]
) -> None:
    if tuple(shape) not in allowed:
        wanted = " or ".join(str(one) for one in allowed)
        raise InvalidParameter(f"{name} of shape {tuple(shape)}: must be {wanted}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """B hosts of one shape, stacked; nothing here reads a value back.

    Attributes
    ----------
    image, target
        ``(B, C, rows, columns)`` float32 in [0, 1].
    low, high
        Shape of `image`: what δ may be at least and at most, from ε, from
        I + δ in [0, 1] and from the guard.
    keep, add
        ``(N, B, 1 or 3, rows, columns)``: N random marks for each host; None
        where the removers are shown the clean host only.
    clean
        Whether the removers are shown the clean host.
    """

    image: torch.Tensor
    target: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    keep: torch.Tensor | None
    add: torch.Tensor | None
    clean: bool

    @property
    def marks(self) -> int:
        """N, the number of random marks."""
        return 0 if self.keep is None else len(self.keep)

    def select(self, rows: torch.Tensor) -> Batch:
        """Only the hosts with the indices `rows`."""
        return Batch(
            image=self.image[rows],
            target=self.target[rows],
            low=self.low[rows],
            high=self.high[rows],
            keep=None if self.keep is None else self.keep[:, rows],
            add=None if self.add is None else self.add[:, rows],
            clean=self.clean,
        )

    def show(self, delta: torch.Tensor, step: int) -> torch.Tensor:
        """Make what the removers are shown in a step.

        Parameters
        ----------
        delta
            δ, ``(B, C, rows, columns)``.
        step
            Number of the step, from 0: picks the mark.

        Returns
        -------
        torch.Tensor
            ``(B, V, 3, rows, columns)``, V views of every host.
        """
        host = self.image + delta
        views = [host] if self.clean else []
        if self.keep is not None and self.add is not None:
            mark = step % len(self.keep)
            views.append(torch.addcmul(self.add[mark], host, self.keep[mark]))
        return torch.stack([view.expand(-1, 3, -1, -1) for view in views], dim=1)

    def project(self, delta: torch.Tensor) -> torch.Tensor:
        """Nearest δ that is allowed."""
        return torch.clamp(delta, self.low, self.high)


def stack_hosts(hosts: Sequence[Host], params: DeltaParams) -> Batch:
    """Stack hosts that are alike (`Host.likeness`).

    Raises
    ------
    InvalidParameter
        If random marks are wanted and there are none.
    """
    image = torch.stack([host.image for host in hosts])
    targets = [host.image if host.target is None else host.target for host in hosts]
    frozen = torch.stack([host.frozen for host in hosts])[:, None]
    bound = params.epsilon / LEVELS
    keep = add = None
    if params.shown != "clean":
        if not hosts[0].composites:
            raise InvalidParameter(
                f"host={params.host!r} needs random marks (composites); there are none"
            )
        marks = list(zip(*(host.composites for host in hosts), strict=True))
        keep = torch.stack([torch.stack([k for k, _ in one]) for one in marks])
        add = torch.stack([torch.stack([a for _, a in one]) for one in marks])
    return Batch(
        image=image,
        target=torch.stack(targets),
        low=(-image).clamp(min=-bound).masked_fill(frozen, 0.0),
        high=(1 - image).clamp(max=bound).masked_fill(frozen, 0.0),
        keep=keep,
        add=add,
        clean=params.shown != "rand",
    )


def quantise(
    delta: torch.Tensor, image: torch.Tensor, epsilon: int
) -> list[NDArray[np.int8]]:
    """Round δ to display levels and keep I8 + δ8 in 0..255.

    Parameters
    ----------
    delta, image
        δ and I, ``(B, C, rows, columns)``; δ is zero where it must stay so.
    epsilon
        ε in display levels.

    Returns
    -------
    list of NDArray[np.int8]
        B arrays ``(rows, columns)`` or, for colour, ``(rows, columns, 3)``.
    """
    levels = (image * LEVELS).round()
    whole = (delta * LEVELS).round().clamp(-epsilon, epsilon)
    whole = (levels + whole).clamp(0, LEVELS) - levels
    planes = whole.to(torch.int8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [one[..., 0] if one.shape[-1] == 1 else one for one in planes]


def as_planes(delta: NDArray[np.int8]) -> torch.Tensor:
    """Undo `quantise`: ``(C, rows, columns)`` float32, in units of 1."""
    planes = delta[None] if delta.ndim == 2 else delta.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes)).float() / LEVELS
