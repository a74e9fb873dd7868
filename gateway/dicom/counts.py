"""Counts that several receiving processes share: who takes how many places.

Each process writes its own row of a piece of shared memory and reads those of the
others. The row of a process that has ended is cleared by whoever started it, so
nothing that a killed process held stays taken.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from typing_extensions import override

CONNECTIONS: Final = "connections"
"""Of this process, whatever they are for."""

SLOTS: Final = 1024
"""Keys of one process with a count above 0; what is beyond is not seen by others."""
WORD: Final = 8
ROW_WORDS: Final = 2 + 2 * SLOTS  # whether it is alive, nothing, marks and counts


class Counts:
    """What one process counts, and what others do: here, there are none.

    Attributes
    ----------
    processes
        That count, this one included.
    """

    processes = 1

    def change(self, key: str, by: int) -> None:
        """Count up or down."""

    def elsewhere(self, key: str) -> int:  # noqa: ARG002 - of other processes
        """Return what all other processes count."""
        return 0

    def ahead(self) -> int:
        """Return how many connections more than the idlest other one this has."""
        return 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let no other process decide meanwhile."""
        yield


class SharedCounts(Counts):
    """The same, in memory that other processes have too.

    Parameters
    ----------
    descriptor
        From `make_counts`; inherited.
    number
        Of this process, from 0.
    """

    def __init__(self, descriptor: int, number: int) -> None:
        self._descriptor = descriptor
        self._words = memoryview(mmap.mmap(descriptor, 0)).cast("Q")
        self.processes = len(self._words) // ROW_WORDS
        self._number = number
        self._own: Counter[str] = Counter()
        self._slots: dict[str, int] = {}
        self._free = list(range(SLOTS - 1, -1, -1))
        self._lock = threading.RLock()
        self._depth = 0
        clear_counts(descriptor, number)
        self._words[number * ROW_WORDS] = os.getpid()

    @override
    def change(self, key: str, by: int) -> None:
        with self._lock:
            self._own[key] += by
            count = self._own[key]
            slot = self._slots.get(key)
            if slot is None:
                if not self._free:
                    return
                slot = self._slots[key] = self._free.pop()
            at = self._number * ROW_WORDS + 2 + slot
            self._words[at + SLOTS] = count
            self._words[at] = _mark(key) if count else 0
            if not count:
                self._free.append(self._slots.pop(key))
                del self._own[key]

    @override
    def elsewhere(self, key: str) -> int:
        return sum(
            self._count(row, key)
            for row in range(self.processes)
            if row != self._number
        )

    @override
    def ahead(self) -> int:
        others = [
            self._count(row, CONNECTIONS)
            for row in range(self.processes)
            if row != self._number and self._words[row * ROW_WORDS]
        ]
        return self._own[CONNECTIONS] - min(others) if others else 0

    @override
    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._lock:
            if not self._depth:  # the kernel does not count
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def _count(self, row: int, key: str) -> int:
        begin = row * ROW_WORDS + 2
        marks = self._words[begin : begin + SLOTS].tolist()
        try:
            return self._words[begin + SLOTS + marks.index(_mark(key))]
        except ValueError:
            return 0


def make_counts(processes: int) -> int:
    """Make memory for so many processes; return a descriptor to be inherited."""
    descriptor = os.memfd_create("miad-gateway-counts")
    os.ftruncate(descriptor, processes * ROW_WORDS * WORD)
    return descriptor


def clear_counts(descriptor: int, number: int) -> None:
    """Free what a process that has ended had counted."""
    row = ROW_WORDS * WORD
    os.pwrite(descriptor, bytes(row), number * row)


def _mark(key: str) -> int:
    digest = hashlib.blake2b(key.encode("utf-8"), digest_size=WORD).digest()
    return int.from_bytes(digest, "little") or 1
