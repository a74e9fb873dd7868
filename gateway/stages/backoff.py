"""How long to wait before a destination is tried again."""

from __future__ import annotations

import hashlib
from typing import Final

SPREAD: Final = 0.25
"""The part of a wait by which jobs differ, so that they do not come all at once."""


def wait_seconds(job: str, failures: int, first: float, cap: float) -> float:
    """Return a wait: doubled with each failure, capped, and a job's own.

    Parameters
    ----------
    job
        Its id: the same job waits the same time wherever it is worked out.
    failures
        In a row, at least one.
    first, cap
        The shortest and the longest wait, in seconds, before they are spread.
    """
    doubled = min(first * 2.0 ** min(failures - 1, 60), cap)
    digest = hashlib.sha256(job.encode("utf-8")).digest()
    share = int.from_bytes(digest[:4], "big") / 2.0**32
    return doubled * (1.0 - SPREAD * share)
