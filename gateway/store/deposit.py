"""File and row of a received object, together or not at all."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import ObjectConflict
from gateway.store.files import CONFLICTS, ORIGINALS, FileStore, OriginalWriter
from gateway.store.index import Index
from gateway.store.rows import Attributes, NewInstance


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where and when an object came from."""

    calling_ae: str
    called_ae: str
    peer_address: str
    received_at: str


class Deposit:
    """Puts received objects into store and index; one per receiving process.

    Several processes may: receiver and web server take objects in side by side.
    """

    def __init__(self, store: FileStore, index: Index) -> None:
        self._store = store
        self._index = index
        self._lock = threading.Lock()
        self._in_hand: Counter[str] = Counter()

    def keep(
        self, writer: OriginalWriter, attributes: Attributes, source: Source
    ) -> Literal["stored", "duplicate"]:
        """Make an object durable: its bytes first, then its row.

        Returns
        -------
        str
            ``stored``, or ``duplicate`` where the same bytes are there.

        Raises
        ------
        ObjectConflict
            Other bytes are stored under its UID; these are kept aside.
        StoreFull, OSError, SQLAlchemyError
            Nothing is stored.
        """
        syntax = writer.meta.transfer_syntax_uid
        with self._holding(writer.sha256):
            outcome = self._index.compare(
                attributes.sop_instance_uid, writer.sha256, syntax
            )
            if outcome == "duplicate":
                return "duplicate"
            known = outcome == "conflict"
            kind = CONFLICTS if known else ORIGINALS
            with self._locked(fcntl.LOCK_SH):
                new = _commit(writer, attributes, source, kind)
                try:
                    return self._add(new, known=known)
                except SQLAlchemyError as error:
                    failure = error
            with self._locked(fcntl.LOCK_EX):
                self._take_back(new)
            raise failure

    def _add(self, new: NewInstance, *, known: bool) -> Literal["stored", "duplicate"]:
        if not known:
            outcome = self._index.add_instance(new)
            if outcome == "gone" and self._index.put_back(new):
                return "stored"  # retention took the file: it is kept anew
            if outcome in ("stored", "duplicate"):
                return outcome
            # Another association was faster, with other bytes.
        self._index.add_conflict(new)
        raise ObjectConflict("Other content is stored under this UID; kept aside")

    def _take_back(self, new: NewInstance) -> None:
        """Remove a file whose row could not be written, unless it is in use.

        A full disk would otherwise fill further with files that nothing names.
        Where it is not certain that no row names the file, it stays.
        """
        with self._lock:
            if self._in_hand[new.sha256] > 1:
                return
            try:
                known = self._index.instance(new.sop_instance_uid)
                aside = self._index.conflicts_of(new.sop_instance_uid)
            except SQLAlchemyError:
                return
            named = {row.path for row in (known, *aside) if row is not None}
            if new.path not in named:
                self._store.remove(new.path)

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Keep other processes from taking back a file whose row is on its way."""
        descriptor = os.open(self._store.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)  # releases the lock

    @contextmanager
    def _holding(self, sha256: str) -> Iterator[None]:
        """Count the associations that have these bytes in hand."""
        with self._lock:
            self._in_hand[sha256] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_hand[sha256] -= 1
                self._in_hand += Counter()  # drops what is at zero


def _commit(
    writer: OriginalWriter, attributes: Attributes, source: Source, kind: str
) -> NewInstance:
    return NewInstance(
        **asdict(attributes),
        **asdict(writer.commit(kind)),
        **asdict(source),
        transfer_syntax_uid=writer.meta.transfer_syntax_uid,
    )
