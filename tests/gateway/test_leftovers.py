"""What a kill left half written goes at a later start; what is being written stays."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.sealing.secretfile import write_durably as write_secret
from gateway.store import leftovers
from gateway.store.durable import durably

HOUR = 3600.0


def age(path: Path, seconds: float) -> None:
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))


def test_only_what_nobody_can_be_writing_any_more_is_removed(tmp_path: Path) -> None:
    vault = tmp_path / "vault" / "ab"
    vault.mkdir(parents=True)
    whole = vault / "1.2.3.miad"
    write_secret(whole, b"whole")
    draft = vault / f".1.2.3.miad.{'0' * 16}"
    write_secret(draft, b"half")
    other = vault / ".kept-by-somebody"
    other.write_bytes(b"x")
    with durably(tmp_path / "store" / "a.miad") as stream:
        stream.write(b"half")
        # As a kill leaves it: under its draft's name.
        (half,) = (tmp_path / "store").iterdir()
        kept = half.with_name(f".b.miad.{'1' * 16}.tmp")
        os.link(half, kept)

    assert leftovers.remove(tmp_path / "store", tmp_path / "vault") == 0
    for path in (kept, draft, whole, other):
        age(path, 2 * HOUR)
    assert leftovers.remove(tmp_path / "store", tmp_path / "vault") == 2
    assert not kept.exists()
    assert not draft.exists()
    assert whole.exists()
    assert other.exists()


def test_a_folder_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert leftovers.remove(tmp_path / "nowhere") == 0
