"""Sealed objects that machines share: under which master keys, and under another.

As `gateway.sealing.rotation` does for files. An object is put anew as a whole, with
another head; a PUT shows the old or the new one, so there is nothing in between.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.errors import InvalidSeal
from gateway.sealing.census import seal_of
from gateway.sealing.envelope import open_envelope
from gateway.sealing.head import EMPTY, make_slot, open_slots, read_head
from gateway.sealing.rotation import Failure, Rewrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.sealing.census import Census, Seal
    from gateway.sealing.master import Keys
    from gateway.store.objects import ObjectBlobs

FOLDERS: Final = ("secrets", "store", "vault")
ERASED: Final = ".erased"
MAX_PASSES: Final = 1000
PIECE: Final = 1 << 20


def count_objects(census: Census, blobs: ObjectBlobs) -> None:
    """Count the sealed objects of a site, beside the files of a machine.

    Raises
    ------
    StoreUnavailable
        Not all could be looked at.
    """
    for name in _names(blobs):
        try:
            seal = _seal(blobs, name)
        except InvalidSeal:
            census.damaged.append(Path(name))
        else:
            if seal is not None:
                census.add(seal)


def rewrap_objects(blobs: ObjectBlobs, keys: Keys, outcome: Rewrapped) -> None:
    """Put all objects under the current key, until a whole pass finds none.

    Parameters
    ----------
    blobs, keys
        The objects, and the keys they are and shall be under.
    outcome
        Is told what was done.
    """
    for _ in range(MAX_PASSES):
        failures: list[Failure] = []
        done = 0
        for name in _names(blobs):
            try:
                done += _rewrap(blobs, name, keys)
            except InvalidSeal as error:
                failures.append(Failure(path=Path(name), reason=str(error)))
        outcome.rewrapped += done
        if not done:
            outcome.failures += failures
            return


def open_objects(blobs: ObjectBlobs, keys: Keys, key_id: str, most: int) -> int:
    """Open objects under a key to their last octet; return how many, ``most`` at most.

    Raises
    ------
    InvalidSeal
        One does not open.
    """
    opened = 0
    for name in _names(blobs):
        seal = _seal(blobs, name)
        if seal is None or key_id not in seal.key_ids:
            continue
        with open_envelope(blobs.open(name), keys) as stream:
            while stream.read(PIECE):
                pass
        opened += 1
        if opened == most:
            break
    return opened


def _rewrap(blobs: ObjectBlobs, name: str, keys: Keys) -> bool:
    current = keys.current()
    seal = _seal(blobs, name)
    if seal is None or seal.is_under(current.key_id):
        return False
    with blobs.locked(name):
        try:
            start = blobs.start(name)
        except FileNotFoundError:
            return False  # removed meanwhile
        head = read_head(start)
        data_key = open_slots(start, head, keys).data_key
        anew = head.fixed + make_slot(data_key, current, head) + EMPTY
        if open_slots(anew, head, keys).data_key != data_key:
            raise InvalidSeal("the master key does not open what it wrapped")
        blobs.replace_start(name, anew)
    return True


def _seal(blobs: ObjectBlobs, name: str) -> Seal | None:
    try:
        return seal_of(Path(name), blobs.start(name))
    except FileNotFoundError:
        return None


def _names(blobs: ObjectBlobs) -> Iterator[str]:
    for folder in FOLDERS:
        yield from (n for n in blobs.names(folder) if not n.endswith(ERASED))
