"""Puts everything at rest under the current master key, while the site runs.

No note is kept of how far it came: the files themselves say so. A rotation that
was killed is taken up by looking at all of them again.

Files go in batches, each in this order: the new wrap is written into the free
slot of every file; the disk has all of them; the old wraps are cleared; the disk
has that too. So whenever the process is killed or the power fails, every file
opens under one of the two keys, and under both until the new wrap is known to be
on the disk. The old key is given up by hand only (`keys retire`), after a census
that finds nothing under it.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, Literal

from gateway.errors import InvalidSeal
from gateway.sealing.census import files_below, is_abandoned, is_draft, read_seal
from gateway.sealing.disk import sync_all
from gateway.sealing.slots import add_slot, drop_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gateway.sealing.master import Keys

BATCH: Final = 512
"""Files that share a wait for the disk."""
MAX_PASSES: Final = 1000
PAUSE_SECONDS: Final = 0.2

Found = Literal["good", "rewrapped", "renewed", "waiting", "failed", "other"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be put under the current key."""

    path: Path
    reason: str


@dataclass(kw_only=True)
class Rewrapped:
    """What a rotation did.

    Attributes
    ----------
    key_id
        The current key.
    passes
        How often all files were looked at.
    rewrapped, renewed
        Files put under it; records of version 1 written anew as version 2.
    waiting
        Files still being written under another key when patience ended.
    failures
        Files that no known key opens, that are damaged, or that cannot be written.
    """

    key_id: str
    passes: int = 0
    rewrapped: int = 0
    renewed: int = 0
    waiting: int = 0
    failures: list[Failure] = field(default_factory=list)


class Rotation:
    """Re-wraps all sealed files of a data directory.

    Parameters
    ----------
    data_directory
        Of the site.
    keys
        Its keys; everything goes under the current one.
    renew
        Writes a sealed file of version 1 anew, under the current key.
    progress
        Called with the number of files looked at in this pass, and how many there
        were at the start.
    sync
        Waits until the disk has these files.
    """

    def __init__(
        self,
        data_directory: Path,
        keys: Keys,
        renew: Callable[[Path], object],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
        sync: Callable[[Sequence[Path]], None] = sync_all,
    ) -> None:
        self._root = data_directory
        self._keys = keys
        self._renew = renew
        self._progress = progress
        self._sync = sync

    def run(self, patience_seconds: float = 60.0) -> Rewrapped:
        """Look at all files until one whole pass finds nothing to do.

        Files that are being written are left to their writers, which take the
        new key when they finish; they are waited for.

        Parameters
        ----------
        patience_seconds
            How long.
        """
        outcome = Rewrapped(key_id=self._keys.current().key_id)
        total = sum(1 for _ in files_below(self._root))
        pause = threading.Event()
        waited = 0.0
        while outcome.passes < MAX_PASSES:
            outcome.passes += 1
            outcome.failures = []
            counts = self._pass(total, outcome.failures)
            outcome.rewrapped += counts["rewrapped"]
            outcome.renewed += counts["renewed"]
            outcome.waiting = counts["waiting"]
            if counts["rewrapped"] or counts["renewed"]:
                continue
            if not outcome.waiting or waited >= patience_seconds:
                break
            pause.wait(PAUSE_SECONDS)
            waited += PAUSE_SECONDS
        return outcome

    def _pass(self, total: int, failures: list[Failure]) -> Counter[Found]:
        """Look at every file once; drafts first, see `take_census`."""
        counts: Counter[Found] = Counter()
        for drafts in (True, False):
            found = (p for p in files_below(self._root) if is_draft(p) is drafts)
            while batch := list(islice(found, BATCH)):
                counts += self._batch(batch, failures)
                self._progress(counts.total(), total)
        return counts

    def _batch(self, paths: list[Path], failures: list[Failure]) -> Counter[Found]:
        """Add the new wrap to files, sync them, clear the old one, sync again."""
        found = {path: self._try(path, self._look, failures) for path in paths}
        added = [path for path, each in found.items() if each == "rewrapped"]
        if added:
            self._sync(added)
            for path in added:
                found[path] = self._try(path, self._drop, failures)
            self._sync(added)
        return Counter(found.values())

    def _try(
        self, path: Path, work: Callable[[Path], Found], failures: list[Failure]
    ) -> Found:
        try:
            return work(path)
        except FileNotFoundError:
            return "other"  # renamed or removed: the next pass sees it
        except InvalidSeal as error:
            if is_draft(path) or _is_erased(path):
                return "other"
            reason = str(error)
        except OSError as error:
            reason = error.strerror or str(error)
        failures.append(Failure(path=path, reason=reason))
        return "failed"

    def _look(self, path: Path) -> Found:
        seal = read_seal(path)
        if seal is None:
            return "other"
        if seal.is_under(self._keys.current().key_id):
            return "good"
        if is_draft(path):
            # Its writer holds no lock on it: two would clear each other's slots.
            return "other" if is_abandoned(path) else "waiting"
        if seal.old:
            self._renew(path)
            return "renewed"
        return "rewrapped" if add_slot(path, self._keys) else "good"

    def _drop(self, path: Path) -> Found:
        drop_slots(path, self._keys)
        return "rewrapped"


def _is_erased(path: Path) -> bool:
    """Whether a file was erased while it was being looked at."""
    try:
        seal = read_seal(path)
    except (InvalidSeal, OSError):
        return False
    return seal is None or (not seal.old and not seal.key_ids)
