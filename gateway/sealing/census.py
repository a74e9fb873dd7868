"""Which files of a site are sealed, and under which master keys.

Every file below the data directory that starts like a sealed one counts,
wherever it lies: what a later release seals elsewhere is rotated with the rest.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.errors import InvalidSeal
from gateway.sealing.head import MAGIC, START, key_ids, read_head

if TYPE_CHECKING:
    from collections.abc import Iterator

OLD_VERSION: Final = 1
INCOMING: Final = "incoming"
DRAFT: Final = "."
ABANDONED_SECONDS: Final = 3600.0
MUST_BE_SEALED: Final = (".miad", ".sealed")
"""A file of such a name that is no sealed one is damaged."""


@dataclass(frozen=True, slots=True)
class Seal:
    """What the start of a sealed file says.

    Attributes
    ----------
    path
        The file.
    key_ids
        Master keys that its data key is wrapped under; none once it was erased.
    old
        Version 1, which names no key and has no room for a second.
    """

    path: Path
    key_ids: frozenset[str] = frozenset()
    old: bool = False

    def is_under(self, key_id: str) -> bool:
        """Whether this key, and no other, opens it, or none ever will."""
        return not self.old and self.key_ids <= {key_id}


@dataclass(slots=True)
class Census:
    """How many files are sealed under which key.

    Attributes
    ----------
    under
        Files by key id; one that is being re-wrapped counts under both keys.
    files
        Sealed files of every kind.
    old
        Of version 1.
    erased
        Whose data key was destroyed.
    damaged
        That should be sealed and are not.
    """

    under: Counter[str] = field(default_factory=Counter)
    files: int = 0
    old: int = 0
    erased: int = 0
    damaged: list[Path] = field(default_factory=list)

    def add(self, seal: Seal) -> None:
        """Count a file."""
        self.files += 1
        self.under.update(seal.key_ids)
        self.old += seal.old
        self.erased += not seal.old and not seal.key_ids


def take_census(data_directory: Path, now: float | None = None) -> Census:
    """Count all sealed files of a site, which may be running.

    Files that are being written count too, and are looked at first: so none
    slips through on its way from its draft's name to its own.

    Parameters
    ----------
    data_directory
        Of the site.
    now
        Seconds since the epoch, to tell drafts that a crash left behind; None
        is the present.
    """
    census = Census()
    for drafts in (True, False):
        for path in files_below(data_directory):
            if is_draft(path) is drafts and not (drafts and is_abandoned(path, now)):
                _count(path, census)
    return census


def _count(path: Path, census: Census) -> None:
    try:
        seal = read_seal(path)
    except InvalidSeal:
        if not is_draft(path):
            census.damaged.append(path)
        return
    if seal is not None:
        census.add(seal)


def files_below(root: Path) -> Iterator[Path]:
    """Files of a folder and of those in it.

    Links are followed, each folder once: a store that was moved to another disk
    must not be overlooked.

    Raises
    ------
    OSError
        A folder cannot be read: then nobody knows what is in it.
    """
    folders = [os.fspath(root)]
    seen = set()
    while folders:
        folder = folders.pop()
        try:
            found = os.stat(folder)  # noqa: PTH116 - as scandir gives it
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue  # gone since it was listed
        for entry in inside:
            if entry.is_dir():
                folders.append(entry.path)
            elif entry.is_file():
                yield Path(entry.path)


def is_draft(path: Path) -> bool:
    """Whether a file is still being written, or was left behind by a crash."""
    return path.name.startswith(DRAFT) or path.parent.name == INCOMING


def is_abandoned(path: Path, now: float | None = None) -> bool:
    """Whether nobody can be writing a draft any more; it holds nothing promised."""
    try:
        written = path.stat().st_mtime
    except FileNotFoundError:
        return True
    return (time.time() if now is None else now) - written > ABANDONED_SECONDS


def read_seal(path: Path) -> Seal | None:
    """Read the start of a file.

    Returns
    -------
    Seal or None
        None for a file that is not sealed, or gone meanwhile.

    Raises
    ------
    InvalidSeal
        It is damaged.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            octets = stream.read(START)
    except FileNotFoundError:
        return None
    return seal_of(path, octets)


def seal_of(path: Path, octets: bytes) -> Seal | None:
    """Read the start of a sealed file at hand; see `read_seal`.

    Raises
    ------
    InvalidSeal
        It is damaged.
    """
    if octets[: len(MAGIC)] != MAGIC:
        if path.suffix in MUST_BE_SEALED:
            raise InvalidSeal(f"{path} is not a sealed file: it was altered or cut")
        return None
    if octets[len(MAGIC) : len(MAGIC) + 1] == bytes([OLD_VERSION]):
        return Seal(path, old=True)
    read_head(octets)
    return Seal(path, frozenset(key_ids(octets)))
