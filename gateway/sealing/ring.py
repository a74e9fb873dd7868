"""The master keys of a site, followed while another process rotates them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.errors import ConfigurationError, KeyUnavailable
from gateway.sealing.master import unknown_key
from gateway.sealing.providers import (
    PROCESS,
    Environment,
    FileProvider,
    Provider,
    load_master_key,
    provider_of,
)

if TYPE_CHECKING:
    from config.schema import Vault
    from gateway.sealing.master import MasterKey

PREVIOUS: Final = ".previous-"
"""Between the name of a key file and the number of a key it held before."""


class KeyRing:
    """The current master key and those of before; itself `Keys`.

    Safe for threads. Sources are looked at again whenever a key is asked for, so
    that no process goes on sealing under a key after it was replaced.

    Parameters
    ----------
    current
        Source of the key to seal under.
    previous
        Sources of earlier keys, while something may be sealed under them.

    Raises
    ------
    ConfigurationError
        A source has no key.
    """

    def __init__(self, current: Provider, previous: Sequence[Provider] = ()) -> None:
        self._current = current
        self._previous = tuple(previous)
        self._lock = threading.Lock()
        self._stamps: tuple[Hashable, ...] = ()
        self._known: dict[str, MasterKey] = {}
        self._master = self._load()

    def current(self) -> MasterKey:
        """Return the key that new seals are made under.

        Raises
        ------
        KeyUnavailable
            Its source has none any more: nothing is sealed under another one.
        """
        with self._lock:
            return self._fresh()

    def by_id(self, key_id: str) -> MasterKey:
        """Return the key of that name.

        Raises
        ------
        InvalidSeal
            The site does not have it.
        KeyUnavailable
            Not all keys of the site can be read to see.
        """
        with self._lock:
            if key_id not in self._known:
                self._reload()
            try:
                return self._known[key_id]
            except KeyError:
                raise unknown_key(key_id) from None

    def known(self) -> Sequence[MasterKey]:
        """Return every key, the current one first."""
        with self._lock:
            master = self._fresh()
            others = (k for name, k in self._known.items() if name != master.key_id)
            return (master, *others)

    def _fresh(self) -> MasterKey:
        if self._current_stamps() != self._stamps:
            self._reload()
        return self._master

    def _reload(self) -> None:
        try:
            self._load()
        except ConfigurationError as error:
            raise KeyUnavailable(str(error)) from error  # it was right at the start

    def _load(self) -> MasterKey:
        """Read all sources; keys of before stay known to this process."""
        stamps = self._current_stamps()
        master = self._current.load()
        self._known[master.key_id] = master
        for key in self._previous_keys():
            self._known.setdefault(key.key_id, key)
        self._master, self._stamps = master, stamps
        return master

    def _current_stamps(self) -> tuple[Hashable, ...]:
        return (self._current.stamp(), *(each.stamp() for each in self._previous))

    def _previous_keys(self) -> Iterator[MasterKey]:
        for provider in self._previous:
            yield provider.load()
        for provider in (self._current, *self._previous):
            if isinstance(provider, FileProvider):
                yield from _kept_beside(provider.path)


def _kept_beside(path: Path) -> Iterator[MasterKey]:
    for previous in previous_files(path):
        with contextlib.suppress(FileNotFoundError):  # a rotation has just ended
            yield load_master_key(previous)


def previous_files(path: Path) -> list[Path]:
    """Files beside a key file that hold the keys it held before."""
    return sorted(path.parent.glob(f"{path.name}{PREVIOUS}*"))


def open_ring(
    settings: Vault, data_directory: Path, environment: Environment = PROCESS
) -> KeyRing:
    """Master keys of a site.

    A key file is made where nothing was sealed yet.

    Parameters
    ----------
    settings
        Sources of the keys.
    data_directory
        From which relative files are meant.
    environment
        Of the process.

    Raises
    ------
    ConfigurationError
        A source has no key, or the key file is gone though the site has sealed
        data.
    """
    current = provider_of(settings.master_key, data_directory, environment)
    previous = [
        provider_of(source, data_directory, environment)
        for source in settings.previous_keys
    ]
    if isinstance(current, FileProvider) and current.stamp() is None:
        # The second look: another process may have made the key just now, and
        # sealed something under it.
        if has_sealed(data_directory) and current.stamp() is None:
            raise ConfigurationError(
                f"master key {current.path} is gone, but this site has data sealed "
                "under it, which no other key opens: restore it from its backup"
            )
        current.make()
    return KeyRing(current, previous)


def has_sealed(data_directory: Path) -> bool:
    """Whether a data directory holds anything sealed under a master key."""
    return any(
        next(data_directory.glob(pattern), None) is not None
        for pattern in ("secrets/*.sealed", "vault/*/*.miad")
    )
