"""File and row of a received object, together or not at all."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import ObjectConflict, StoreFull
from gateway.store.committer import Committer
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
        self._committer = Committer(index)
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
        with self._holding(writer.sha256):
            known = self._known(writer, attributes.sop_instance_uid)
            if known == "duplicate":
                return "duplicate"
            with self._locked(fcntl.LOCK_SH):
                try:
                    return self._keep(writer, attributes, source)
                except (SQLAlchemyError, StoreFull, OSError) as error:
                    failure = error
            with self._locked(fcntl.LOCK_EX):
                self._take_back(writer, attributes.sop_instance_uid)
            raise failure

    def _known(self, writer: OriginalWriter, uid: str) -> str | None:
        """Ask the index only where these very bytes lie in the store already."""
        if not self._store.exists(writer.name_as(ORIGINALS)):
            return None
        syntax = writer.meta.transfer_syntax_uid
        return self._index.compare(uid, writer.sha256, syntax)

    def _keep(
        self, writer: OriginalWriter, attributes: Attributes, source: Source
    ) -> Literal["stored", "duplicate"]:
        new = NewInstance(
            **vars(attributes),
            **vars(writer.commit()),
            **vars(source),
            transfer_syntax_uid=writer.meta.transfer_syntax_uid,
        )
        outcome = self._committer.add(new)
        while outcome == "gone":  # retention took the file: it is kept anew
            if self._put_back(new):
                return "stored"
            outcome = self._committer.add(new)  # its row has gone by now, too
        if outcome != "conflict":
            return outcome
        self._index.add_conflict(replace(new, path=self._store.set_aside(new.path)))
        raise ObjectConflict("Other content is stored under this UID; kept aside")

    def _put_back(self, new: NewInstance) -> bool:
        with self._store.putting_back(new.path):
            return self._index.put_back(new)

    def _take_back(self, writer: OriginalWriter, uid: str) -> None:
        """Remove a file whose row could not be written, unless it is in use.

        A full disk would otherwise fill further with files that nothing names.
        Where it is not certain that no row names the file, it stays; so it does in
        a shared store, where another machine's row may be on its way: sent again, it
        gets the same name.
        """
        if self._store.is_shared:
            return
        with self._lock:
            if self._in_hand[writer.sha256] > 1:
                return
            try:
                known = self._index.instance(uid)
                aside = self._index.conflicts_of(uid)
            except SQLAlchemyError:
                return
            named = {row.path for row in (known, *aside) if row is not None}
            for kind in (ORIGINALS, CONFLICTS):
                path = writer.name_as(kind)
                if path not in named:
                    self._store.remove(path)

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
                if not self._in_hand[sha256]:
                    del self._in_hand[sha256]
