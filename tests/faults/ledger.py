"""What happened in a run, as lines of JSON that survive the end of the run.

Who runs the faults may be ended at any moment too: everything that the invariants
are checked against, and how far the rounds have come, is read back from here.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.objects import Item


class Journal:
    """A file of lines; one that was cut off at the end is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        mend(path)

    def note(self, event: str, **fields: Any) -> None:
        """Append a line."""
        line = json.dumps({"event": event, "at": time.time(), **fields})
        with self._lock, self.path.open("a") as stream:
            stream.write(line + "\n")

    def events(self, *names: str) -> Iterator[dict[str, Any]]:
        """Yield the lines of these kinds; all where none is named."""
        if not self.path.exists():
            return
        with self.path.open() as stream:
            for line in stream:
                event = json.loads(line)
                if not names or event["event"] in names:
                    yield event


def mend(path: Path) -> None:
    """Cut a last line off that is not whole."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole != len(content):
        path.write_bytes(content[:whole])


class Ledger:
    """Which objects there are, and which of them were acknowledged."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._items: dict[str, Item] = {}
        self._answers: Counter[str] = Counter()
        for event in journal.events("made", "acknowledged"):
            if event["event"] == "made":
                item = Item(**event["item"])
                self._items[item.uid] = item
            else:
                self._answers[event["uid"]] += 1

    def made(self, items: list[Item]) -> None:
        """Note objects before they are sent."""
        with self._lock:
            for item in items:
                self._journal.note("made", item=asdict(item))
                self._items[item.uid] = item

    def acknowledged(self, uid: str) -> None:
        """Note a Success that a sender got."""
        with self._lock:
            if uid not in self._answers:
                self._journal.note("acknowledged", uid=uid)
            self._answers[uid] += 1

    def items(self) -> list[Item]:
        """Return all objects."""
        with self._lock:
            return list(self._items.values())

    def kept(self) -> list[Item]:
        """Return the acknowledged objects: those that must never be lost."""
        with self._lock:
            return [item for item in self._items.values() if self._answers[item.uid]]

    def open(self) -> list[Item]:
        """Return what was made and is not acknowledged yet."""
        with self._lock:
            return [
                item for item in self._items.values() if not self._answers[item.uid]
            ]

    @property
    def answers(self) -> int:
        """How often Success was answered, duplicates included."""
        with self._lock:
            return self._answers.total()
