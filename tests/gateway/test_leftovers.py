"""What a kill left half written goes; what is being written stays."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from config.schema import Site
from gateway.app.openers import open_index_of, open_keys_of
from gateway.app.places import Places
from gateway.app.process import sealed_store
from gateway.sealing.secretfile import write_durably as write_secret
from gateway.store import leftovers
from gateway.store.durable import ClaimedFile, durably

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


def test_whoever_starts_on_a_machine_clears_what_was_coming_in_there(
    tmp_path: Path,
) -> None:
    site = Site(data_directory=tmp_path)
    places = Places(tmp_path)
    incoming = places.store / "incoming"
    incoming.mkdir(parents=True)
    (incoming / "0.part").write_bytes(b"cut")
    with (
        ClaimedFile(incoming / "1.part"),
        closing(open_index_of(site, open_keys_of(site))) as index,
    ):
        sealed_store(site, places, index, open_keys_of(site))
        assert [path.name for path in incoming.iterdir()] == ["1.part"]
