"""Delete what a site says is not to be kept, and what it may spare when short.

Nothing goes unless the settings say so. An original goes only after its recovery
from key and protected object was tried there and then, where it was protected.
What a kill left half written was never kept, and goes by itself.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.errors import GatewayError, RecordMissing
from gateway.log import described, get_logger
from gateway.store import leftovers
from gateway.store.index import Index
from gateway.store.retention import Due, Kind, Retention, Terms
from gateway.store.rows import Instance, Protected

if TYPE_CHECKING:
    from config.schema import Keep, Site
    from config.schema import Retention as Settings
    from gateway.audit.log import AuditLog
    from gateway.store.files import FileStore
    from gateway.vault.vault import Vault

KINDS: Final[tuple[Kind, ...]] = ("original", "protected")
Recovers = Callable[[Instance, Protected], None]
TIDY_SECONDS: Final = 3600.0
"""Between two looks for leftovers: they walk the whole store."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How many went, and how many octets of files; ``kept``: did not come back."""

    originals: int = 0
    protected: int = 0
    keys: int = 0
    held: int = 0
    octets: int = 0
    kept: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return self == Summary()


class Wanted(NamedTuple):
    """Something due, and why; early: only while the disk is short."""

    due: Due
    why: str


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """Retention of one site.

    Attributes
    ----------
    index, store, vault, audit
        Where things are, and where it is told.
    settings
        What is kept for how long.
    committing
        Destinations where sent is not enough.
    recovers
        Raises a GatewayError where an original does not come back.
    clock
        Gives the time, aware.
    folders
        Of this machine, looked through for what a kill left half written.
    """

    index: Index
    store: FileStore
    vault: Vault
    audit: AuditLog
    settings: Settings
    committing: frozenset[str]
    recovers: Recovers
    clock: Callable[[], datetime]
    folders: tuple[Path, ...] = ()

    @property
    def rows(self) -> Retention:
        """Its part of the index."""
        return Retention(self.index.database)

    def run(self, stop: threading.Event) -> None:
        """Go round until told to stop; a failed round is tried again."""
        tidied = -math.inf
        while not stop.is_set():
            if time.monotonic() - tidied >= TIDY_SECONDS:
                tidied = time.monotonic()
                _outlived(self.tidy)
            _outlived(lambda: self.retain(self.clock(), self.settings.round_seconds))
            stop.wait(self.settings.round_seconds)

    def tidy(self) -> int:
        """Remove what a kill left half written an hour ago; return how many files.

        Raises
        ------
        OSError
            A folder cannot be read.
        """
        if left := leftovers.remove(*self.folders):
            get_logger("store").info("leftovers-removed", files=left)
        return left

    def retain(self, now: datetime, budget: float) -> Summary:
        """Delete what is due, oldest first.

        Parameters
        ----------
        now
            An aware time.
        budget
            Seconds after which nothing more is begun.
        """
        until = time.monotonic() + budget
        self.finish_halves()
        done = Summary()
        for kind in KINDS:
            for wanted in self._wanted(kind, now):
                if time.monotonic() >= until:
                    break
                if wanted.why == "space" and not self._is_short():
                    break
                done = self._take(kind, wanted, now, done)
        for due in self.rows.held(self._held_before(now), self.settings.most_at_once):
            self._destroy("original", due, now, "age-held")
            done = replace(done, held=done.held + 1)
        for wanted in self._keys(now):
            done = self._erase_key(wanted, now, done)
        self._tell(done)
        return done

    def due(self, now: datetime) -> dict[str, list[Due]]:
        """Return what `retain` would delete now, without its recovery being tried.

        Keys of protected objects that are to go first are not among it yet.
        """
        found: dict[str, list[Due]] = {
            kind: [wanted.due for wanted in self._wanted(kind, now)] for kind in KINDS
        }
        found["held"] = self.rows.held(
            self._held_before(now), self.settings.most_at_once
        )
        found["key"] = [wanted.due for wanted in self._keys(now)]
        return found

    def finish_halves(self) -> int:
        """Destroy files that a crash left after their rows said they go."""
        halves = [(kind, due) for kind in KINDS for due in self.rows.halves(kind)]
        for kind, due in halves:
            self._remove(kind, due)
        return len(halves)

    # One object

    def _take(
        self, kind: Kind, wanted: Wanted, now: datetime, done: Summary
    ) -> Summary:
        due = wanted.due
        if kind == "original" and not self._comes_back(due):
            return replace(done, kept=done.kept + 1)
        octets = self._destroy(kind, due, now, wanted.why)
        if kind == "original":
            done = replace(done, originals=done.originals + 1)
        else:
            done = replace(done, protected=done.protected + 1)
        return replace(done, octets=done.octets + octets)

    def _destroy(self, kind: Kind, due: Due, now: datetime, why: str) -> int:
        """Destroy a file; return its size."""
        octets = self.store.size(due.path)
        if not self.rows.begin(kind, due, now, why):
            return 0
        self._remove(kind, due)
        return octets

    def _remove(self, kind: Kind, due: Due) -> None:
        with self.store.taking_away(due.path):
            if self.rows.is_going(kind, due):
                self.store.destroy(due.path)
                self.rows.end(kind, due)

    def _comes_back(self, due: Due) -> bool:
        """Try to recover an original, if its protected object is still kept."""
        instance = self.index.instance_by_id(due.id)
        protected = self.index.protected_kept(due.id)
        if instance is None or protected is None:
            return instance is not None
        try:
            self.recovers(instance, protected)
        except (GatewayError, OSError) as error:
            get_logger("retention").error(
                "original-kept", instance_id=due.id, error=described(error)
            )
            return False
        return True

    def _erase_key(self, wanted: Wanted, now: datetime, done: Summary) -> Summary:
        with contextlib.suppress(RecordMissing):  # a crash came before its row went
            self.vault.erase(wanted.due.uid)
        self.rows.end_key(wanted.due, now, wanted.why)
        return replace(done, keys=done.keys + 1)

    # What is due

    def _wanted(self, kind: Kind, now: datetime) -> Iterator[Wanted]:
        settings = self.settings
        keep = settings.originals if kind == "original" else settings.protected
        limit = settings.most_at_once
        seen = set()
        for why, days in (("age", keep.days), ("space", self._spare(keep))):
            terms = self._terms(days, now)
            if kind == "original":
                found = self.rows.originals(terms, limit)
            else:
                keys = self._terms(self._days_of_keys(why), now)
                found = self.rows.protected(terms, keys, limit)
            for due in found:
                if due.id not in seen:
                    seen.add(due.id)
                    yield Wanted(due, why)

    def _keys(self, now: datetime) -> Iterator[Wanted]:
        """Yield keys whose protected objects have gone, by age or when short."""
        keep = self.settings.keys
        for why, days in (("age", keep.days), ("space", self._spare(keep))):
            terms = self._terms(days, now)
            for due in self.rows.keys(terms, self.settings.most_at_once):
                yield Wanted(due, why)

    def _days_of_keys(self, why: str) -> int | None:
        keys = self.settings.keys
        return keys.days if why == "age" else keys.spare_days

    def _spare(self, keep: Keep) -> int | None:
        return keep.spare_days if self._is_short() else None

    def _is_short(self) -> bool:
        space = self.store.space
        return space is not None and space.room().short

    def _terms(self, days: int | None, now: datetime) -> Terms:
        before = None if days is None else now - timedelta(days=days)
        return Terms(before=before, committing=self.committing)

    def _held_before(self, now: datetime) -> datetime | None:
        days = self.settings.held_days
        return None if days is None else now - timedelta(days=days)

    def _tell(self, done: Summary) -> None:
        if done.is_empty:
            return
        counts = {
            "originals": done.originals,
            "protected": done.protected,
            "keys": done.keys,
            "held": done.held,
            "bytes": done.octets,
            "kept": done.kept,
        }
        self.audit.note("retention", "failure" if done.kept else "success", **counts)
        get_logger("retention").info("deleted", **counts)


def committing(site: Site) -> frozenset[str]:
    """Return the destinations where sent is not enough: they commit."""
    return frozenset(d.name for d in site.destinations if d.commitment)


def _outlived(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - the loop outlives any failure
        get_logger("retention").error("failed", error=described(error))
