"""Puts marked pictures through removers, with and without δ (Figs. 5 and 8)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from engine.errors import NoFeasiblePlacement
from engine.experiments.bench import Scene, predicted
from engine.experiments.images import at_side
from engine.experiments.marked import as_levels, finite
from engine.metrics import quality, rmse
from engine.removal.composites import MASK_THRESHOLD
from engine.types import LEVELS
from engine.watermark.stored import apply_delta
from engine.watermark.working import GRID, levels_to_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.experiments.bench import Bench
    from engine.experiments.images import Sample
    from engine.params import DeltaParams
    from engine.params.delta import Kind
    from engine.protection.values import Prepared
    from engine.removal.remover import Remover
    from engine.types import FrameKey

BOTH: Final = "all"
"""δ made against all removers together."""

NOWHERE: Final = ""
"""Through no remover, or against none."""

_CRAFTED: Final[tuple[Kind, ...]] = ("delta_d", "delta_i")


class Compared(NamedTuple):
    """How far one picture is from another; no PSNR for equal ones."""

    ssim: float
    psnr: float | None
    rmse: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RemovalRecord:
    """One picture, as it is or through one remover.

    Attributes
    ----------
    image, label
        CLASS/FILE and the index of its true class.
    kind
        What lies under the mark: ``none``, ``noise``, ``delta_d``, ``delta_i``.
    against
        Remover δ is made against, `BOTH`, or `NOWHERE`.
    marked
        Whether there is a mark.
    order
        Whether δ was put in ``before`` the search or ``after`` it.
    through
        The remover, or `NOWHERE` for the picture as it is.
    seen, members
        Class probabilities of the ensemble and of every member.
    vs_original, vs_input
        SSIM, PSNR in dB and RMSE in levels against the original and against what
        the remover was given, on the model grid.
    in_mark
        PSNR in dB against the original inside the mark; None without one.
    mask_area, mark_area
        Shares of the grid the remover takes for a mark, and that are one.
    iou
        Of the two; None without remover or mark.
    """

    image: str
    label: int
    kind: str
    against: str
    marked: bool
    order: str = "before"
    through: str = NOWHERE
    seen: tuple[float, ...]
    members: dict[str, tuple[float, ...]]
    vs_original: tuple[float, float | None, float]
    vs_input: tuple[float, float | None, float]
    in_mark: float | None
    mask_area: float
    mark_area: float
    iou: float | None

    def right(self, member: str | None = None) -> bool:
        """Whether a member, or the ensemble, names the true class."""
        said = self.members[member] if member else self.seen
        return predicted(said) == self.label


@dataclass(frozen=True, kw_only=True, slots=True)
class _Input:
    """A picture to be judged and put through removers.

    ``mask`` is ``(G, G)`` bool: where the mark is.
    """

    kind: str
    against: str
    marked: bool
    order: str
    picture: torch.Tensor
    mask: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Output:
    """A picture that is judged: an input, or what a remover made of one."""

    source: _Input
    through: str
    picture: torch.Tensor
    predicted: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoversPlan:
    """Every remover on every kind of δ.

    Attributes
    ----------
    after
        Whether δ is also put in after the mark.
    native
        Whether images keep their own size. Otherwise they are brought to the grid
        first, as in the paper: resampling a picture takes most of δ away.
    lesion_guard
        Whether δ spares lesion boxes; the paper's does not.
    """

    after: bool = True
    native: bool = False
    lesion_guard: bool = False

    @property
    def name(self) -> str:
        """Name of the table."""
        return "removers"

    @property
    def record(self) -> type[RemovalRecord]:
        """Type of the records."""
        return RemovalRecord

    def measure(self, bench: Bench, sample: Sample) -> list[RemovalRecord]:
        """Measure one image; nothing where its mark has no place."""
        sample = sample if self.native else at_side(sample, GRID)
        scene = Scene(bench, sample)
        delta = replace(bench.params.delta, lesion_guard=self.lesion_guard)
        try:
            inputs = _inputs(scene, delta, after=self.after)
        except NoFeasiblePlacement:
            return []
        outputs = [one for source in inputs for one in _through(bench, source)]
        said = bench.judge([one.picture for one in outputs])
        original = bench.shown(sample, sample.frame.stored)
        return [
            replace(
                _record(scene, original, one),
                members=members,
                seen=bench.mixed(members),
            )
            for one, members in zip(outputs, said, strict=True)
        ]


def _inputs(scene: Scene, params: DeltaParams, *, after: bool) -> list[_Input]:
    """All pictures: unmarked controls, marked ones, and δ put in after."""
    plain, removers = scene.plain(), list(scene.bench.removers)
    stored, mask = _marked(scene, plain)
    made = [_input(scene, "none", plain.frame.stored, None)]
    made.append(_input(scene, "none", stored, mask))
    groups = [[name] for name in removers]
    groups += [removers] if len(removers) > 1 else []
    crafts: list[tuple[Kind, list[str]]] = [("noise", [])]
    crafts += [(kind, group) for group in groups for kind in _CRAFTED]
    for kind, group in crafts:
        against = BOTH if len(group) > 1 else "".join(group)
        prepared = scene.crafted(replace(params, kind=kind), group)
        control = _input(scene, kind, prepared.host, None)
        one = _input(scene, kind, *_marked(scene, prepared))
        made += [replace(control, against=against), replace(one, against=against)]
        if after and against != BOTH:
            late = apply_delta(replace(plain.frame, stored=stored), prepared.delta)
            one = _input(scene, kind, late, mask)
            made.append(replace(one, against=against, order="after"))
    return made


def _input(
    scene: Scene,
    kind: str,
    stored: NDArray[np.int32],
    mask: NDArray[np.bool_] | None,
) -> _Input:
    return _Input(
        kind=kind,
        against=NOWHERE,
        marked=mask is not None,
        order="before",
        picture=scene.bench.shown(scene.sample, stored),
        mask=np.zeros((GRID, GRID), np.bool_) if mask is None else mask,
    )


def _marked(
    scene: Scene, prepared: Prepared
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Mark by HE-SIT with the paper's stop rule; stored values and where it is."""
    params = scene.bench.params.search
    search = replace(
        params, strategy="he-sit", stop="ensemble", budget=0, robust_changes=0
    )
    protector = scene.bench.protector(search=search)
    result = protector.finish(prepared, seed=scene.seed)
    return result.stored, mark_mask(result.key)


def mark_mask(key: FrameKey) -> NDArray[np.bool_]:
    """``(G, G)`` bool: where a remover is taught to see the logo, on the grid."""
    h, w = key.patch.shape[:2]
    matte = np.zeros(key.residual.shape[:2], dtype=np.uint8)
    matte[key.y : key.y + h, key.x : key.x + w] = key.patch[..., 3]
    shrunk = levels_to_tensor(matte, (GRID, GRID), torch.device("cpu"))[0]
    mask: NDArray[np.bool_] = (shrunk > MASK_THRESHOLD).numpy()
    return mask


def _through(bench: Bench, source: _Input) -> list[_Output]:
    """Give the picture as it is, and what each remover makes of it.

    Unmarked pictures with δ are controls and go through none.
    """
    nothing = np.zeros_like(source.mask)
    outputs = [
        _Output(
            source=source,
            through=NOWHERE,
            picture=source.picture,
            predicted=nothing,
        )
    ]
    if source.marked or source.kind == "none":
        outputs += [_removed(r, source) for r in bench.removers.values()]
    return outputs


@torch.inference_mode()
def _removed(remover: Remover, source: _Input) -> _Output:
    removal = remover(source.picture[None])
    picture = removal.image[0].float().clamp(0, 1)
    return _Output(
        source=source,
        through=remover.name,
        picture=(picture * LEVELS).round() / LEVELS,
        predicted=(removal.mask[0, 0].float() > 0.5).cpu().numpy(),
    )


def _record(scene: Scene, original: torch.Tensor, one: _Output) -> RemovalRecord:
    source = one.source
    clean, given, out = (as_levels(p) for p in (original, source.picture, one.picture))
    return RemovalRecord(
        image=scene.sample.name,
        label=scene.sample.label,
        kind=source.kind,
        against=source.against,
        marked=source.marked,
        order=source.order,
        through=one.through,
        seen=(),
        members={},
        vs_original=_compared(clean, out),
        vs_input=_compared(given, out),
        in_mark=_inside(clean, out, source.mask),
        mask_area=float(one.predicted.mean()),
        mark_area=float(source.mask.mean()),
        iou=overlap(one.predicted, source.mask) if one.through else None,
    )


def _compared(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Compared:
    seen = quality(one, other)
    return Compared(seen.ssim, finite(seen.psnr), seen.rmse)


def _inside(
    one: NDArray[np.uint8], other: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> float | None:
    """PSNR in dB over the masked pixels; None without any or without difference."""
    if not mask.any():
        return None
    error = rmse(one[mask], other[mask])
    return 20 * float(np.log10(LEVELS / error)) if error else None


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float | None:
    """Intersection over union of two masks; None if the second is empty."""
    if not other.any():
        return None
    return float((one & other).sum() / (one | other).sum())


def chosen(
    records: Sequence[RemovalRecord], **wanted: str | bool
) -> list[RemovalRecord]:
    """Keep the records whose fields have the wanted values."""
    return [
        r for r in records if all(getattr(r, name) == v for name, v in wanted.items())
    ]
