"""What an authorised node gets back (Fig. 4b): Ori, AW, IAB and RI."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from engine.errors import NoFeasiblePlacement
from engine.experiments import paper
from engine.experiments.bench import Scene, predicted
from engine.experiments.document import Headline, Page
from engine.experiments.marked import finite
from engine.experiments.text import mean, number, percent, rate, share, table
from engine.metrics import quality
from engine.recover import recover
from engine.rendering import render
from engine.watermark.stored import invert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.experiments.bench import Bench
    from engine.experiments.images import Sample
    from engine.metrics import Proportion
    from engine.types import FrameKey

STAGES: Final = {
    "Ori": "original",
    "AW": "δ and mark, as sent",
    "IAB": "mark taken off by Eq. 13, δ left",
    "RI": "recovered with the key",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """One image at one stage.

    Attributes
    ----------
    image, label
        CLASS/FILE and the index of its true class.
    stage
        One of `STAGES`.
    seen, members
        Class probabilities of the ensemble and of every member.
    ssim, psnr
        Against the original; no PSNR for equal pictures.
    equal
        Whether all stored values are those of the original, byte for byte.
    """

    image: str
    label: int
    stage: str
    seen: tuple[float, ...]
    members: dict[str, tuple[float, ...]]
    ssim: float
    psnr: float | None
    equal: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthorisePlan:
    """The four stages of every image, with the product's δ and HE-SIT."""

    @property
    def name(self) -> str:
        """Name of the table."""
        return "authorise"

    @property
    def record(self) -> type[StageRecord]:
        """Type of the records."""
        return StageRecord

    def measure(self, bench: Bench, sample: Sample) -> list[StageRecord]:
        """Measure one image; none of its stages where the mark has no place."""
        scene, frame = Scene(bench, sample), sample.frame
        search = replace(
            bench.params.search, strategy="he-sit", stop="ensemble", budget=0
        )
        protector = bench.protector(search=search)
        try:
            result = protector.finish(scene.product(), seed=scene.seed)
        except NoFeasiblePlacement:
            return []
        stored = {
            "Ori": frame.stored,
            "AW": result.stored,
            "IAB": without_mark(result.stored, result.key),
            "RI": recover(result.stored, result.key),
        }
        said = bench.judge([bench.shown(sample, one) for one in stored.values()])
        original = render(frame.stored, frame.rendering)
        records = []
        for (stage, one), members in zip(stored.items(), said, strict=True):
            seen = quality(original, render(one, frame.rendering))
            records.append(
                StageRecord(
                    image=sample.name,
                    label=sample.label,
                    stage=stage,
                    seen=bench.mixed(members),
                    members=members,
                    ssim=seen.ssim,
                    psnr=finite(seen.psnr),
                    equal=one.tobytes() == frame.stored.tobytes(),
                )
            )
        return records


def without_mark(protected: NDArray[np.int32], key: FrameKey) -> NDArray[np.int32]:
    """Take the mark off by Eq. 13 alone: δ and what rounding lost stay.

    Parameters
    ----------
    protected
        Stored values as sent.
    key
        The key of the frame.
    """
    only_mark = replace(
        key, delta=np.zeros_like(key.delta), residual=np.zeros_like(key.residual)
    )
    return invert(protected, only_mark)


def page(records: Sequence[StageRecord]) -> Page:
    """Write the table of the stages."""
    groups = {s: [r for r in records if r.stage == s] for s in STAGES}
    names = list(records[0].members) if records else []
    rows = []
    for stage, group in groups.items():
        rows.append(
            [
                f"{stage}: {STAGES[stage]}",
                percent(_right(group)),
                *(percent(_right(group, name)) for name in names),
                number(mean(r.ssim for r in group), 4),
                number(mean(r.psnr for r in group)),
                rate(share(r.equal for r in group).value),
            ]
        )
    columns = ("", "ensemble", *names, "SSIM", "PSNR dB", "byte for byte")
    return Page(
        title="Authorised recovery",
        body=[
            "HE-SIT on the ensemble, the paper's stop rule, δ against all removers.",
            "IAB inverts the blending alone, without the residual the key also holds:",
            "it shows δ and what rounding to stored values lost. RI is what an",
            "authorised node gets; anything but the very bytes would be refused.",
            "",
            *table(columns, rows),
            *_paper(),
        ],
        headlines=_headlines(groups),
        data={
            "stages": {
                stage: {
                    "accuracy": _right(group).as_dict(),
                    "members": {n: _right(group, n).as_dict() for n in names},
                    "ssim": mean(r.ssim for r in group),
                    "equal": share(r.equal for r in group).as_dict(),
                }
                for stage, group in groups.items()
                if group
            }
        },
    )


def _right(group: Sequence[StageRecord], member: str | None = None) -> Proportion:
    return share(
        predicted(r.members[member] if member else r.seen) == r.label for r in group
    )


def _paper() -> list[str]:
    columns = ("", *(f"{m}, {d}" for m in ("accuracy", "SSIM") for d in "MIB"))
    rows = [
        [
            stage,
            *(number(v, 4) for v in paper.AUTHORISATION["accuracy"][stage]),
            *(number(v, 4) for v in paper.AUTHORISATION["SSIM"][stage]),
        ]
        for stage in STAGES
    ]
    return [
        "The paper's Fig. 4b (Messidor, ISIC2019, BTMRI; one model each). Its text",
        "says that the accuracy of AW is 0; its table does not.",
        "",
        *table(columns, rows),
    ]


def _headlines(groups: dict[str, list[StageRecord]]) -> list[Headline]:
    measured = {s: group for s, group in groups.items() if group}
    return [
        Headline(
            what=f"{stage} ({STAGES[stage]}): accuracy, SSIM",
            here=(
                f"{percent(_right(group))}, {number(mean(r.ssim for r in group), 4)}"
                + (
                    f", {rate(share(r.equal for r in group).value)} byte for byte"
                    if stage == "RI"
                    else ""
                )
            ),
            paper="; ".join(
                f"{a:.4f}, {s:.4f}"
                for a, s in zip(
                    paper.AUTHORISATION["accuracy"][stage],
                    paper.AUTHORISATION["SSIM"][stage],
                    strict=True,
                )
            ),
        )
        for stage, group in measured.items()
        if stage != "Ori"
    ]
