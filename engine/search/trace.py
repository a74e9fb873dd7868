"""The trace of a search: what was tried, what was said of it, and what was taken.

A trace names neither patient nor study: the frame appears as the integer its
draws were seeded with. Replaying it needs the picture as well.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from engine.errors import EngineError, InvalidParameter
from engine.params import SearchParams, SITRanges
from engine.search.candidate import Candidate, Judged, Judgement
from engine.types import SIT, Box
from engine.watermark.maker import PatchMaker
from engine.watermark.working import Geometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.search.objective import Objective
    from engine.search.run import Outcome
    from engine.search.start import Start
    from engine.watermark.logo import Logo

VERSION: Final = 1
"""Of the JSON form; others are refused."""

COLUMNS: Final = (
    *("x", "y", "alpha", "rotation", "hue", "saturation", "value"),
    *("fitness", "tie", "wrong", "deceived", "success", "generation", "cost"),
)
"""What the numbers of an entry are, in order."""


class InvalidTrace(EngineError):
    """A trace cannot be read, or is of another logo, frame, label or ensemble."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A finished search.

    Attributes
    ----------
    params
        Strategy, budget, stop rule and ranges as searched with: without
        rotation where the logo had to be kept upright.
    seed
        Of the search's generator: with the same software and parameters the
        same candidates are drawn again.
    ensemble, members, labels
        Names of the judges and of their classes.
    label
        Index of the class the search talks them out of: the ensemble's own
        answer on the original, not a diagnosis.
    label_free
        Whether the features' movement decided among the candidates.
    logo_sha256
        Hex digest of the logo's file.
    shrink, fallbacks
        Factor on the sides of the logo for lack of room, and all concessions
        in words.
    columns, rows, side
        Native size of the frame, and the side G of the model grid.
    grey
        Whether the frame is grey.
    size
        Native width and height of the logo before rotation.
    boxes
        Lesion boxes on the grid.
    entries
        Everything judged, in order.
    result
        Index of the entry that became the mark.
    success
        Whether it was confirmed at native size.
    queries
        Image queries charged.
    windows
        Under how many windows every candidate was seen.
    """

    params: SearchParams
    seed: int
    ensemble: str
    members: tuple[str, ...]
    labels: tuple[str, ...]
    label: int
    label_free: bool
    logo_sha256: str
    shrink: float
    fallbacks: tuple[str, ...]
    columns: int
    rows: int
    side: int
    grey: bool
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    entries: tuple[Judged, ...] = field(repr=False)
    result: int
    success: bool
    queries: int
    windows: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.result < len(self.entries):
            raise InvalidTrace(
                f"the result is entry {self.result} of {len(self.entries)}: "
                "there is none of that number"
            )
        if not 0 <= self.label < len(self.labels):
            raise InvalidTrace(f"label {self.label} of {len(self.labels)} classes")

    @property
    def first_error(self) -> int | None:
        """Index of the first entry that deceives the ensemble, None without any."""
        wrong = (i for i, one in enumerate(self.entries) if one.judgement.deceived)
        return next(wrong, None)

    def maker(self, logo: Logo) -> PatchMaker:
        """Make the patches the search was made with.

        Raises
        ------
        InvalidTrace
            It is another logo.
        """
        self._check_logo(logo.sha256)
        return PatchMaker(
            logo=logo,
            geometry=Geometry(columns=self.columns, rows=self.rows, side=self.side),
            sl=self.params.sl,
            grey=self.grey,
            shrink=self.shrink,
            matte=self.params.matte,
        )

    def check(self, maker: PatchMaker, objective: Objective) -> None:
        """See that patches and judges are those of the trace.

        Raises
        ------
        InvalidTrace
            Naming what differs.
        """
        self._check_logo(maker.logo.sha256)
        geometry, judges = maker.geometry, objective.ensemble
        known = {
            "frame": (self.columns, self.rows),
            "grid": self.side,
            "grey": self.grey,
            "logo size": self.size,
            "matte": self.params.matte,
            "members": self.members,
            "classes": self.labels,
            "label": self.label,
            "windows": self.windows,
        }
        given = {
            "frame": (geometry.columns, geometry.rows),
            "grid": geometry.side,
            "grey": maker.grey,
            "logo size": maker.size,
            "matte": maker.matte,
            "members": judges.names,
            "classes": judges.labels,
            "label": objective.label,
            "windows": objective.windows,
        }
        for name, value in known.items():
            if value != given[name]:
                raise InvalidTrace(
                    f"the trace has {name} {value}, but here it is {given[name]}"
                )

    def _check_logo(self, sha256: str) -> None:
        if sha256 != self.logo_sha256:
            raise InvalidTrace(
                f"the trace was made with logo {self.logo_sha256[:12]}..., this one "
                f"is {sha256[:12]}...: give the logo file of then"
            )

    def to_json(self) -> str:
        """One line of JSON; numbers come back exactly."""
        plain = asdict(self) | {
            "version": VERSION,
            "seed": hex(self.seed),
            "columns_of_entries": COLUMNS,
            "entries": [_row(one) for one in self.entries],
        }
        return json.dumps(plain, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Trace:
        """Read what `to_json` wrote.

        Raises
        ------
        InvalidTrace
            It is not a trace, damaged, or of another version.
        """
        try:
            plain: dict[str, Any] = dict(json.loads(text))
            version = plain.pop("version")
            if version != VERSION:
                raise InvalidTrace(
                    f"trace of version {version}: this program reads {VERSION}"
                )
            return cls(**_values(plain))
        except (ValueError, TypeError, KeyError, InvalidParameter) as error:
            raise InvalidTrace(f"this is no trace of a search: {error}") from error


_TUPLES: Final = ("members", "labels", "fallbacks", "size")


def trace_of(
    outcome: Outcome,
    start: Start,
    objective: Objective,
    *,
    boxes: Sequence[Box],
    seed: int,
    sent: Candidate | None = None,
) -> Trace:
    """Make the trace of a finished search.

    Parameters
    ----------
    outcome
        What was found.
    start
        What it was searched with.
    objective
        What was wanted.
    boxes
        Lesion boxes on the grid.
    seed
        Of the generator of the search.
    sent
        The judged candidate that became the mark; by default the best.
    """
    space, judges = start.space, objective.ensemble
    maker = space.maker
    candidates = [one.candidate for one in outcome.judged]
    return Trace(
        params=space.params,
        seed=seed,
        ensemble=judges.name,
        members=judges.names,
        labels=tuple(judges.labels),
        label=objective.label,
        label_free=objective.label_free,
        logo_sha256=maker.logo.sha256,
        shrink=maker.shrink,
        fallbacks=start.fallbacks,
        columns=maker.geometry.columns,
        rows=maker.geometry.rows,
        side=maker.geometry.side,
        grey=maker.grey,
        size=maker.size,
        boxes=tuple(boxes),
        entries=outcome.judged,
        result=candidates.index(sent or outcome.best.candidate),
        success=outcome.success,
        queries=outcome.queries,
        windows=objective.windows,
    )


def _row(one: Judged) -> list[float | int | None]:
    """Write an entry as numbers in the order of `COLUMNS`; None for what is none."""
    (x, y, alpha, sit), said = one.candidate, one.judgement
    return [
        *(x, y, alpha, sit.rotation, sit.hue, sit.saturation, sit.value),
        *(_finite(said.fitness), _finite(said.tie)),
        *(int(v) for v in (said.wrong, said.deceived, said.success)),
        *(one.generation, one.cost),
    ]


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity, which only a broken model gives."""
    return value if math.isfinite(value) else None


def _entry(row: Sequence[Any]) -> Judged:
    x, y, alpha, *sit, fitness, tie, wrong, deceived, success, generation, cost = row
    rotation, hue, saturation, value = (float(v) for v in sit)
    return Judged(
        candidate=Candidate(
            x=int(x),
            y=int(y),
            alpha=int(alpha),
            sit=SIT(rotation=rotation, hue=hue, saturation=saturation, value=value),
        ),
        judgement=Judgement(
            fitness=math.nan if fitness is None else float(fitness),
            tie=math.nan if tie is None else float(tie),
            wrong=int(wrong),
            deceived=bool(deceived),
            success=bool(success),
        ),
        generation=int(generation),
        cost=int(cost),
    )


def _values(plain: dict[str, Any]) -> dict[str, Any]:
    """Turn the fields of the JSON form into those of `Trace`."""
    if tuple(plain.pop("columns_of_entries")) != COLUMNS:
        raise InvalidTrace(f"the numbers of an entry are not {', '.join(COLUMNS)}")
    params = plain["params"]
    ranges = {name: tuple(pair) for name, pair in params["sit"].items()}
    return plain | {
        "params": SearchParams(**params | {"sit": SITRanges(**ranges)}),
        "seed": int(plain["seed"], 16),
        "boxes": tuple(Box(**box) for box in plain["boxes"]),
        "entries": tuple(_entry(row) for row in plain["entries"]),
        **{name: tuple(plain[name]) for name in _TUPLES},
    }
