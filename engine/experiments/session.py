"""Runs a measurement over many images, resumably, on one or more processes."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

import torch

from engine.errors import InvalidParameter
from engine.experiments.images import Selection, load_sample, select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from _typeshed import DataclassInstance

    from engine.experiments.bench import Bench, Setup
    from engine.experiments.images import Sample

_CHUNK: Final = 2
"""Images a process measures before it hands its results in: loading the models
takes a second or two, an image much longer."""

R = TypeVar("R", bound="DataclassInstance")


class Plan(Protocol[R]):
    """What is measured of every image: a frozen dataclass of its options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """Name of the table, also of its command and files."""

    @property
    def record(self) -> type[R]:
        """Type of the records, a frozen dataclass of plain values and tuples."""

    def measure(self, bench: Bench, sample: Sample) -> list[R]:
        """Measure one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured(Generic[R]):
    """All records of a measurement and the images they are of."""

    selection: Selection
    records: tuple[R, ...]


def fingerprint(setup: Setup, plan: Plan[R]) -> str:
    """Digest of all that records depend on."""
    options = json.dumps([plan.name, asdict(plan)])
    text = f"{setup.fingerprint()} {options}"
    return hashlib.sha256(text.encode()).hexdigest()


def run_session(
    setup: Setup,
    plan: Plan[R],
    n: int,
    journal: Path,
    *,
    jobs: int = 1,
    tick: Callable[[int, int], None] = lambda _done, _total: None,
) -> Measured[R]:
    """Measure n images; those a journal already holds are not done again.

    Parameters
    ----------
    setup
        Data, models and parameters.
    plan
        What to measure.
    n
        How many images.
    journal
        JSON lines: a fingerprint, then the records of one image each.
    jobs
        Processes, each with one thread of torch; 1 measures in this process.
    tick
        Called with images done and in all.

    Raises
    ------
    InvalidParameter
        The journal belongs to other models, parameters or options.
    """
    bench = setup.bench()
    selection = select(setup.data, bench.ensemble, n, setup.params.seed)
    done = _open_journal(journal, fingerprint(setup, plan), plan)
    todo = [(i, m) for i, m in enumerate(selection.names) if m not in done]
    tick(len(selection.names) - len(todo), len(selection.names))
    alone = jobs == 1
    fresh = (
        _alone(setup, plan, bench, todo) if alone else _spread(setup, plan, todo, jobs)
    )
    for name, records in fresh:
        _append(journal, {"image": name, "records": [asdict(r) for r in records]})
        done[name] = records
        tick(sum(one in done for one in selection.names), len(selection.names))
    ordered = [record for name in selection.names for record in done[name]]
    return Measured(selection=selection, records=tuple(ordered))


_Numbered = tuple[int, str]
"""Place of an image in the selection, and its name."""


def _alone(
    setup: Setup, plan: Plan[R], bench: Bench, names: Sequence[_Numbered]
) -> Iterator[tuple[str, list[R]]]:
    for index, name in names:
        sample = load_sample(setup.data, name, tuple(bench.ensemble.labels), index)
        yield name, plan.measure(bench, sample)


def _spread(
    setup: Setup, plan: Plan[R], names: Sequence[_Numbered], jobs: int
) -> Iterator[tuple[str, list[R]]]:
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    # A forked child would inherit the state of torch's threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(_measure_chunk, setup, plan, chunk) for chunk in chunks]
        for task in as_completed(tasks):
            yield from task.result()


def _measure_chunk(
    setup: Setup, plan: Plan[R], names: Sequence[_Numbered]
) -> list[tuple[str, list[R]]]:
    torch.set_num_threads(1)
    return list(_alone(setup, plan, setup.bench(), names))


def _open_journal(journal: Path, digest: str, plan: Plan[R]) -> dict[str, list[R]]:
    """Read the records by image; start a journal where there is none."""
    head, *entries = _read(journal) if journal.exists() else [{}]
    if not entries:
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.write_text("", encoding="utf-8")
        _append(journal, {"fingerprint": digest})
        return {}
    if head.get("fingerprint") != digest:
        raise InvalidParameter(
            f"{journal} holds records of other models, parameters or options; "
            "move it away or name another journal"
        )
    return {
        e["image"]: [plan.record(**_tuples(r)) for r in e["records"]] for e in entries
    }


def _read(journal: Path) -> list[dict[str, Any]]:
    """Whole lines; one cut short by an interruption is dropped and cut off."""
    text = journal.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        journal.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()] or [{}]


def _append(journal: Path, entry: dict[str, Any]) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, allow_nan=False) + "\n")


def _tuples(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    """Turn lists into tuples throughout: JSON knows no tuples."""
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, dict):
        return {key: _tuples(one) for key, one in value.items()}
    return value
