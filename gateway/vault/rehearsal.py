"""Tries a restored master key on sealed files, without changing anything."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from gateway.errors import BackupRefused, InvalidSeal, RecordMissing
from gateway.sealing.census import files_below, is_draft, read_seal
from gateway.sealing.envelope import open_sealed
from gateway.sealing.master import LocalMasterKey
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.sealing.census import Seal

SAMPLE: Final = 100
CHUNK: Final = 1 << 20


def open_files(root: Path, vault_root: Path, secret: bytes, everything: bool) -> int:
    """Open files that are under a key, to their last octet.

    Parameters
    ----------
    root, vault_root
        The data directory, and the vault in it.
    secret
        The key.
    everything
        Not only a random sample of a hundred.

    Returns
    -------
    int
        How many were opened.

    Raises
    ------
    BackupRefused
        One does not open, or there is none.
    """
    key = LocalMasterKey(secret)
    vault = Vault(vault_root, key)
    # Records of version 1 name no key; where there are others, those tell more.
    for chosen in (_under(root, key.key_id), _old(root)):
        seals = chosen if everything else _sample(chosen)
        opened = sum(_open(seal, key, vault) for seal in seals)
        if opened:
            return opened
    raise BackupRefused(f"no file of this site is under key {key.key_id}")


def _under(root: Path, key_id: str) -> Iterator[Seal]:
    return (seal for seal in _seals(root) if key_id in seal.key_ids)


def _old(root: Path) -> Iterator[Seal]:
    return (seal for seal in _seals(root) if seal.old)


def _seals(root: Path) -> Iterator[Seal]:
    for path in files_below(root):
        if not is_draft(path) and (seal := _seal(path)) is not None:
            yield seal


def _sample(seals: Iterator[Seal]) -> list[Seal]:
    """Choose at random, holding no more than are chosen (Vitter's algorithm R)."""
    random = secrets.SystemRandom()
    chosen: list[Seal] = []
    for number, seal in enumerate(seals):
        if number < SAMPLE:
            chosen.append(seal)
        elif (place := random.randrange(number + 1)) < SAMPLE:
            chosen[place] = seal
    return chosen


def _seal(path: Path) -> Seal | None:
    try:
        return read_seal(path)
    except InvalidSeal:
        return None  # keys status tells of damaged files


def _open(seal: Seal, key: LocalMasterKey, vault: Vault) -> bool:
    """Whether a file was opened; it may have been removed meanwhile."""
    try:
        if seal.old:
            vault.get(seal.path.stem)
            return True
        with open_sealed(seal.path, key) as reader:
            while reader.read(CHUNK):
                pass
    except (FileNotFoundError, RecordMissing):
        return False
    except InvalidSeal as error:
        raise BackupRefused(
            f"key {key.key_id} does not open {seal.path}: {error}"
        ) from error
    return True
