"""Tries a restored master key on sealed files, without changing anything."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from gateway.errors import BackupRefused, InvalidSeal
from gateway.sealing.census import files_below, is_draft, read_seal
from gateway.sealing.envelope import open_sealed
from gateway.sealing.master import LocalMasterKey
from gateway.vault.vault import Vault

if TYPE_CHECKING:
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
    seals = _seals_under(root, key.key_id)
    if not everything and len(seals) > SAMPLE:
        seals = secrets.SystemRandom().sample(seals, SAMPLE)
    opened = 0
    for seal in seals:
        try:
            _open(seal, key, vault)
        except FileNotFoundError:
            continue  # removed meanwhile
        except InvalidSeal as error:
            raise BackupRefused(
                f"key {key.key_id} does not open {seal.path}: {error}"
            ) from error
        opened += 1
    if not opened:
        raise BackupRefused(f"no file of this site is under key {key.key_id}")
    return opened


def _seals_under(root: Path, key_id: str) -> list[Seal]:
    """Find what the key must open: files that name it, else such as name none."""
    found = [
        seal
        for path in files_below(root)
        if not is_draft(path) and (seal := _seal(path)) is not None
    ]
    named = [seal for seal in found if key_id in seal.key_ids]
    return named or [seal for seal in found if seal.old]


def _seal(path: Path) -> Seal | None:
    try:
        return read_seal(path)
    except InvalidSeal:
        return None  # keys status tells of damaged files


def _open(seal: Seal, key: LocalMasterKey, vault: Vault) -> None:
    if seal.old:
        vault.get(seal.path.stem)
        return
    with open_sealed(seal.path, key) as reader:
        while reader.read(CHUNK):
            pass
