"""A place in the trail, remembered in a file."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.audit.chain import START, Link
from gateway.store.durable import write_durably


class Cursor:
    """How far a reader of the trail has come.

    Parameters
    ----------
    path
        The file; absent: at the start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Link:
        """Return the last line that is done with; the start if that is unknown."""
        try:
            kept = json.loads(self._path.read_bytes())
            return Link(int(kept["line"]), str(kept["hash"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return START

    def save(self, link: Link) -> None:
        """Remember a place, durably."""
        kept = {"line": link.count, "hash": link.digest}
        write_durably(self._path, json.dumps(kept).encode())
