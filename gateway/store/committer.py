"""Rows of received objects, committed together.

A commit costs a wait for the disk however many rows it holds. So whoever finds a
commit under way leaves its row, and the first to have its turn takes all that wait
into one transaction: only once that has begun, so that rows which come while another
process writes are in it, too. Nobody waits for others to come, and no thread is
needed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

if TYPE_CHECKING:
    from gateway.store.index import AddOutcome, Index
    from gateway.store.rows import NewInstance


class _Waiting:
    """A row, and what became of it once a transaction was made of it."""

    def __init__(self, new: NewInstance) -> None:
        self.new = new
        self.outcome: AddOutcome | None = None
        self.failure: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.outcome is not None or self.failure is not None


class Committer:
    """Adds received objects to the index; one per process that receives.

    Parameters
    ----------
    index
        Where they go.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._lock = threading.Lock()  # of the list
        self._turn = threading.Lock()  # one transaction at a time
        self._waiting: list[_Waiting] = []

    def add(self, new: NewInstance) -> AddOutcome:
        """Add a row; as `Index.add_instance`, durable when this returns.

        Raises
        ------
        SQLAlchemyError
            This row could not be added; others of the transaction may have been.
        """
        mine = _Waiting(new)
        with self._lock:
            self._waiting.append(mine)
        with self._turn:
            if not mine.done:
                self._commit()
        if mine.failure is not None:
            raise mine.failure
        assert mine.outcome is not None
        return mine.outcome

    def _commit(self) -> None:
        """Add all rows in one transaction; where that fails, each in its own."""
        batch: list[_Waiting] = []

        def rows() -> list[NewInstance]:
            batch.extend(self._take())
            return [waiting.new for waiting in batch]

        try:
            self._index.add_instances(rows)
        except SQLAlchemyError as error:
            if not batch:  # none could begin
                _fail(self._take(), error)
            for waiting in batch:  # a known UID or a full disk fails the whole
                self._alone(waiting)
        except BaseException as error:
            _fail(batch or self._take(), error)
            raise
        else:
            for waiting in batch:
                waiting.outcome = "stored"

    def _take(self) -> list[_Waiting]:
        with self._lock:
            taken, self._waiting = self._waiting, []
        return taken

    def _alone(self, waiting: _Waiting) -> None:
        try:
            waiting.outcome = self._index.add_instance(waiting.new)
        except SQLAlchemyError as error:
            waiting.failure = error


def _fail(batch: list[_Waiting], error: BaseException) -> None:
    for waiting in batch:
        waiting.failure = error
