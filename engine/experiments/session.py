"""Runs a measurement over many images, resumably, on one or more processes."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from engine.errors import InvalidParameter
from engine.experiments.images import Selection, load_sample, select
from engine.experiments.measure import Record, measure_image, record_from
from engine.models.ensemble import load_ensemble
from engine.params import ProtectParams
from engine.protect import Protector
from engine.removal.remover import load_remover
from engine.watermark.logo import load_logo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CHUNK: Final = 4
"""Images a process measures before it hands its results in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What is measured, as values that another process can be given.

    Attributes
    ----------
    data
        Folder with one folder per class.
    ensemble
        Directory of the ensemble.
    removers
        Directories of the removers δ is made against.
    params
        Parameters of protection; their seed orders the images too.
    """

    data: Path
    ensemble: Path
    removers: tuple[Path, ...]
    params: ProtectParams

    def protector(self) -> Protector:
        """Load models and logo.

        Raises
        ------
        ModelError
            A model is missing or damaged.
        """
        return Protector(
            ensemble=load_ensemble(self.ensemble),
            objective="diagnosis",
            removers=[load_remover(path) for path in self.removers],
            logo=load_logo(),
            params=self.params,
        )

    def fingerprint(self) -> str:
        """Digest of models, logo and parameters: what records depend on."""
        digest = hashlib.sha256(json.dumps(asdict(self.params)).encode())
        digest.update(load_logo().sha256.encode())
        for folder in (self.ensemble, *self.removers):
            for card in sorted(folder.glob("*.json")):
                digest.update(str(json.loads(card.read_bytes())["sha256"]).encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """All records of a measurement and the images they are of."""

    selection: Selection
    records: tuple[Record, ...]


def run_session(
    setup: Setup,
    n: int,
    journal: Path,
    *,
    jobs: int = 1,
    tick: Callable[[int, int], None] = lambda _done, _total: None,
) -> Measured:
    """Measure n images; those a journal already holds are not done again.

    Parameters
    ----------
    setup
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
        The journal belongs to other models or parameters.
    """
    protector = setup.protector()
    selection = select(setup.data, protector.ensemble, n, setup.params.seed)
    done = _open_journal(journal, setup.fingerprint())
    todo = [name for name in selection.names if name not in done]
    tick(len(selection.names) - len(todo), len(selection.names))
    fresh = _alone(setup, protector, todo) if jobs == 1 else _spread(setup, todo, jobs)
    for name, records in fresh:
        _append(journal, {"image": name, "records": [r.as_dict() for r in records]})
        done[name] = records
        tick(sum(one in done for one in selection.names), len(selection.names))
    ordered = [record for name in selection.names for record in done[name]]
    return Measured(selection=selection, records=tuple(ordered))


def _alone(
    setup: Setup, protector: Protector, names: Sequence[str]
) -> Iterator[tuple[str, list[Record]]]:
    for name in names:
        sample = load_sample(setup.data, name, tuple(protector.ensemble.labels))
        yield name, measure_image(protector, sample)


def _spread(
    setup: Setup, names: Sequence[str], jobs: int
) -> Iterator[tuple[str, list[Record]]]:
    chunks = [names[i : i + _CHUNK] for i in range(0, len(names), _CHUNK)]
    # A forked child would inherit the state of torch's threads.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        tasks = [pool.submit(_measure_chunk, setup, chunk) for chunk in chunks]
        for task in as_completed(tasks):
            yield from task.result()


def _measure_chunk(
    setup: Setup, names: Sequence[str]
) -> list[tuple[str, list[Record]]]:
    torch.set_num_threads(1)
    return list(_alone(setup, setup.protector(), names))


def _open_journal(journal: Path, fingerprint: str) -> dict[str, list[Record]]:
    """Read the records by image; start a journal where there is none."""
    if not journal.exists():
        journal.parent.mkdir(parents=True, exist_ok=True)
        _append(journal, {"fingerprint": fingerprint})
        return {}
    head, *entries = _read(journal)
    if head.get("fingerprint") != fingerprint:
        raise InvalidParameter(
            f"{journal} holds records of other models or parameters; "
            "move it away or name another journal"
        )
    return {e["image"]: [record_from(r) for r in e["records"]] for e in entries}


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
