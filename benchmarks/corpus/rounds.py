"""In which rounds files are sent, and what each round found, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from benchmarks.corpus.find import FoundFile
from benchmarks.corpus.rows import Row

FRAMES: Final = 100
"""From so many frames on a round takes no further study: what a run that is cut
off has to do again, and what jobs can share, is a round."""

RESULT: Final = "rows.json"


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """What a round found: a row per file, and what should not have arrived."""

    rows: Sequence[Row]
    strays: Sequence[str]


def rounds_of(files: Sequence[FoundFile]) -> list[list[FoundFile]]:
    """Lay files out in rounds in which every SOP Instance UID comes once.

    A gateway refuses other octets under a UID it holds (0xC0C0), so each round
    is sent to a gateway of its own. Studies stay together inside a round; the
    rounds with most frames come first.
    """
    seen: defaultdict[str, int] = defaultdict(int)
    layers: defaultdict[int, list[FoundFile]] = defaultdict(list)
    for file in files:
        uid = file.facts.sop_instance_uid
        layers[seen[uid]].append(file)
        seen[uid] += 1
    rounds = [part for number in sorted(layers) for part in _cut(layers[number])]
    return sorted(rounds, key=lambda batch: -_frames(batch))


def _cut(files: Sequence[FoundFile]) -> list[list[FoundFile]]:
    """Cut between studies, where there are frames enough."""
    rounds: list[list[FoundFile]] = [[]]
    ordered = sorted(files, key=_study_order)
    for _, study in groupby(ordered, lambda one: one.facts.study_instance_uid):
        if _frames(rounds[-1]) >= FRAMES:
            rounds.append([])
        rounds[-1].extend(study)
    return rounds


def _frames(files: Sequence[FoundFile]) -> int:
    return sum(file.facts.frames for file in files)


def _study_order(file: FoundFile) -> tuple[str, str, str]:
    facts = file.facts
    return facts.study_instance_uid, facts.series_instance_uid, file.name


def keep_round(
    result: RoundResult, files: Sequence[FoundFile], directory: Path, *, how: str
) -> None:
    """Write what a round found into its folder."""
    table = {
        "of": _identity(files, how=how),
        "strays": list(result.strays),
        "rows": [asdict(row) for row in result.rows],
    }
    (directory / RESULT).write_text(json.dumps(table) + "\n", "utf-8")


def kept_round(
    files: Sequence[FoundFile], directory: Path, *, how: str
) -> RoundResult | None:
    """Read what an earlier run found for the very same round; None if nothing."""
    path = directory / RESULT
    if not path.is_file():
        return None
    table = json.loads(path.read_text("utf-8"))
    if table["of"] != _identity(files, how=how):
        return None
    rows = [read_row(values) for values in table["rows"]]
    return RoundResult(rows=rows, strays=table["strays"])


def read_row(values: Mapping[str, Any]) -> Row:
    """Read a row from JSON values."""
    return Row(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


def _identity(files: Sequence[FoundFile], *, how: str) -> str:
    """Tell a round from all others: by its files, octet for octet, and its search."""
    said = [how, *(f"{file.name} {file.sha256}" for file in files)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
