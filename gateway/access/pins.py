"""Certificates that settings name, by file or fingerprint."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import structlog

from gateway.errors import ConfigurationError
from gateway.tls.certificates import fingerprint_of

LOG = structlog.get_logger(component="access")

Stamp = tuple[int, int, int]


class Pins:
    """The fingerprints of one node's or person's certificates.

    A file that has changed is read again; while it cannot be read, none of what
    it held counts.

    Parameters
    ----------
    given
        PEM files and fingerprints.

    Raises
    ------
    ConfigurationError
        A file cannot be read now.
    """

    def __init__(self, given: Sequence[Path | str]) -> None:
        self._fixed = frozenset(fingerprint_of(g) for g in given if isinstance(g, str))
        self._files: dict[Path, tuple[Stamp | None, frozenset[str]]] = {}
        self._lock = threading.Lock()
        for path in (g for g in given if isinstance(g, Path)):
            self._files[path] = (_stamp(path), frozenset({fingerprint_of(path)}))

    def __contains__(self, sha256: str) -> bool:
        """Whether a certificate is one of them."""
        if sha256 in self._fixed:
            return True
        with self._lock:
            return any(sha256 in self._current(path) for path in self._files)

    def _current(self, path: Path) -> frozenset[str]:
        known, held = self._files[path]
        stamp = _stamp(path)
        if stamp == known:
            return held
        try:
            held = frozenset({fingerprint_of(path)})
        except ConfigurationError as error:
            LOG.warning("certificate not read", path=str(path), error=str(error))
            held = frozenset()
        self._files[path] = (stamp, held)
        return held


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)
