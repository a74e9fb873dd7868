"""Rotation of the master key: killed anywhere, nothing is lost."""

from __future__ import annotations

import base64
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.rotation import record_of, run, uid_of
from gateway.errors import ConfigurationError, GatewayError, InvalidSeal, KeyInUse
from gateway.sealing.census import read_seal, take_census
from gateway.sealing.envelope import EnvelopeWriter, open_sealed
from gateway.sealing.keyfile import KeyFile
from gateway.sealing.master import LocalMasterKey
from gateway.sealing.rotation import Rotation
from gateway.vault.vault import Vault
from tests.gateway.key_cases import SealedSite

VECTORS = Path(__file__).parent.parent / "vectors"

# Ends itself with kill -9 at the n-th call that touches the disk, or says that
# there are not so many.
DIES_IN_RENEW = """
import os, signal, sys
from pathlib import Path
from gateway.sealing.keyfile import KeyFile
file, left = KeyFile(Path(sys.argv[1])), int(sys.argv[2])
def count(event, arguments):
    global left
    if event in ("open", "os.link", "os.rename", "os.remove"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(count)
file.renew()
"""


@pytest.fixture
def site(tmp_path: Path) -> SealedSite:
    return SealedSite(tmp_path)


@pytest.mark.slow
def test_killed_three_times_all_records_open_and_none_is_under_the_old_key(
    tmp_path: Path,
) -> None:
    result = run(tmp_path, records=400, kills=3, seed=7)

    assert len(result.killed_with_done) == 3
    assert result.killed_with_done[0] > 0
    assert result.sealed_meanwhile > 0
    assert (result.opened, result.under_old, result.wrong) == (
        400 + result.sealed_meanwhile,
        0,
        0,
    )
    assert result.under_new == result.opened


# The key file


def test_a_new_key_killed_at_every_step(site: SealedSite) -> None:
    first, names = site.first, set()
    for step in range(1, 40):
        command = [sys.executable, "-c", DIES_IN_RENEW, site.master, str(step)]
        ended = subprocess.run(command, check=False, timeout=60).returncode
        assert site.all_open()
        assert first in {key.key_id for key in site.ring().known()}
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        if KeyFile(site.master).has_next:
            names.add(site.master.with_name("master.key.next").read_bytes())
        elif site.ring().current().key_id != first:
            break  # died after the change
    else:
        pytest.fail("never came to the end")
    assert step > 5
    # One key, made once and taken up again, not one for every start.
    assert names == {site.master.read_bytes()}
    assert site.ring().current().key_id != first
    assert site.master.stat().st_mode & 0o777 == 0o600


def test_a_running_process_follows_a_rotation(site: SealedSite) -> None:
    running = site.ring()
    vault = Vault(site.data / "vault", running)
    old, new = KeyFile(site.master).renew()

    vault.put(record_of(100))

    assert (old, running.current().key_id) == (site.first, new)
    assert site.under() == {old: 3, new: 1}
    assert vault.get(uid_of(0)) == record_of(0)


# Re-wrapping


def rotation(site: SealedSite, **more: Any) -> Rotation:
    return Rotation(site.data, site.ring(), site.vault().rewrap, **more)


def test_everything_sealed_is_rotated_wherever_it_lies(site: SealedSite) -> None:
    for place in ("store/originals/ab/x.dcm", "secrets/uid.key.sealed", "other/new"):
        site.seal(place)
    _, new = KeyFile(site.master).renew()

    outcome = rotation(site).run()

    assert site.under() == {new: 6}
    assert (outcome.rewrapped, outcome.failures) == (6, [])
    with open_sealed(site.data / "other/new", site.ring()) as reader:
        assert reader.read() == b"content"


def test_the_old_wrap_goes_only_after_the_disk_has_the_new_one(
    site: SealedSite,
) -> None:
    old, new = KeyFile(site.master).renew()
    alone = LocalMasterKey(site.master.read_bytes())
    seen: list[set[frozenset[str]]] = []

    def sync(paths: Sequence[Path]) -> None:
        seen.append({seal.key_ids for p in paths if (seal := read_seal(p)) is not None})
        for path in paths:
            open_sealed(path, alone).close()

    rotation(site, sync=sync).run()

    assert seen == [{frozenset({old, new})}, {frozenset({new})}]


class PowerFails(Exception):
    pass


@pytest.mark.parametrize("at", [1, 2])
def test_ended_at_either_sync_it_is_taken_up(site: SealedSite, at: int) -> None:
    _, new = KeyFile(site.master).renew()
    calls = []

    def sync(paths: Sequence[Path]) -> None:
        calls.append(paths)
        if len(calls) == at:
            raise PowerFails

    with pytest.raises(PowerFails):
        rotation(site, sync=sync).run()
    assert site.all_open()

    rotation(site).run()

    assert site.under() == {new: 3}
    assert site.all_open()


def test_a_torn_new_wrap_is_written_again(site: SealedSite) -> None:
    _, new = KeyFile(site.master).renew()
    path = next(iter(site.vault().paths()))
    octets = bytearray(path.read_bytes())
    octets[140:174] = bytes.fromhex(new) + os.urandom(26)  # half of the second slot
    path.write_bytes(octets)

    rotation(site).run()

    assert site.under() == {new: 3}
    assert site.all_open()


def test_a_file_that_is_being_written_is_waited_for(site: SealedSite) -> None:
    draft = site.data / "store" / "incoming" / "x.part"
    draft.parent.mkdir(parents=True)
    running = site.ring()
    with draft.open("x+b") as stream:
        writer = EnvelopeWriter(stream, running)
        writer.write(b"first ")
        stream.flush()
        old, new = KeyFile(site.master).renew()
        waited = rotation(site).run(patience_seconds=0.3)
        assert waited.waiting == 1
        assert site.under() == {old: 1, new: 3}

        finished = threading.Timer(0.4, lambda: _finish(writer, draft))
        finished.start()
        outcome = rotation(site).run(patience_seconds=30)
        finished.join()

    assert outcome.waiting == 0
    assert site.under() == {new: 4}
    with open_sealed(draft.with_name("x.dcm"), site.ring()) as reader:
        assert reader.read() == b"first last"


def _finish(writer: EnvelopeWriter, draft: Path) -> None:
    writer.write(b"last")
    writer.finish()
    draft.rename(draft.with_name("x.dcm"))


def test_a_store_moved_to_another_disk_is_not_overlooked(site: SealedSite) -> None:
    site.seal("store/originals/ab/x.dcm")
    moved = site.data.parent / "disk"
    (site.data / "store").rename(moved)
    (site.data / "store").symlink_to(moved, target_is_directory=True)
    (moved / "loop").symlink_to(site.data, target_is_directory=True)
    old, new = KeyFile(site.master).renew()
    assert site.under() == {old: 4}

    rotation(site).run()

    assert site.under() == {new: 4}


def test_a_file_that_cannot_be_written_is_told_and_the_others_go_on(
    site: SealedSite,
) -> None:
    path = site.seal("store/originals/ab/x.dcm")
    path.rename(site.data.parent / "x")
    path.symlink_to(site.data.parent / "x")
    old, new = KeyFile(site.master).renew()

    outcome = rotation(site).run()

    (failure,) = outcome.failures
    assert (failure.path, failure.reason) == (path, os.strerror(errno.ELOOP))
    assert site.under() == {old: 1, new: 3}


def test_a_draft_left_by_a_crash_holds_nothing_up(site: SealedSite) -> None:
    draft = site.seal("vault/ab/.2.25.7.miad.0123")
    os.utime(draft, (1.0, 1.0))
    _, new = KeyFile(site.master).renew()

    assert rotation(site).run().waiting == 0
    assert site.under() == {new: 3}


def test_records_of_version_1_are_renewed(tmp_path: Path) -> None:
    expected = json.loads((VECTORS / "record-v1.json").read_text())["sealed"]
    site = SealedSite(tmp_path, records=0)
    site.master.write_bytes(bytes.fromhex(expected["master_key"]))
    path = site.data / "vault" / "ab" / f"{expected['protected_uid']}.miad"
    path.parent.mkdir(parents=True)
    path.write_bytes((VECTORS / expected["file"]).read_bytes())
    _, new = KeyFile(site.master).renew()
    assert take_census(site.data).old == 1

    outcome = rotation(site).run()

    assert (outcome.renewed, outcome.rewrapped) == (1, 0)
    assert site.under() == {new: 1}
    with open_sealed(path, site.ring()) as reader:
        assert reader.read().startswith(b"MIADKEY")


def test_a_file_of_an_unknown_key_is_named_and_the_others_go_on(
    site: SealedSite,
) -> None:
    stranger = SealedSite(site.data.parent / "other", records=1)
    moved = site.data / "vault" / "aa" / "2.25.999.miad"
    moved.parent.mkdir(exist_ok=True)
    next(iter(stranger.vault().paths())).rename(moved)

    with pytest.raises(GatewayError, match="1 files are not under") as told:
        site.keys("rotate")

    assert f"{moved}: sealed under master key {stranger.first}" in str(told.value)
    current = site.ring().current().key_id
    assert current != site.first
    assert site.under() == {current: 3, stranger.first: 1}
    assert "1 files are under keys that are not at hand" in site.status()["problem"]
    assert site.trail("key-rotation")[-1]["outcome"] == "failure"
    # Nor does it keep a leaked key in use.
    with pytest.raises(GatewayError, match="1 files are not under"):
        site.keys("rotate")
    assert site.ring().current().key_id not in (current, site.first)


def test_a_cut_record_is_named(site: SealedSite) -> None:
    path = next(iter(site.vault().paths()))
    path.write_bytes(path.read_bytes()[:100])

    with pytest.raises(GatewayError, match=path.name):
        site.keys("rotate")


# The commands


def test_rotate_says_what_it_did(site: SealedSite) -> None:
    assert "3 files put under it" in site.keys("rotate")

    told = site.status()
    new = told["current"]
    assert [(row["key_id"], row["state"], row["files"]) for row in told["keys"]] == [
        (new, "current", 3),
        (site.first, "previous", 0),
    ]
    begun, finished = site.trail("key-rotation")
    assert (begun["phase"], begun["former"]) == ("begun", site.first)
    assert (finished["phase"], finished["key_id"], finished["files"]) == (
        "finished",
        new,
        3,
    )


def test_rotate_goes_on_with_the_key_of_before(site: SealedSite) -> None:
    _, new = KeyFile(site.master).renew()

    told = json.loads(site.keys("rotate", "--json"))

    assert (told["key_id"], told["new"], told["files"]) == (new, False, 3)
    assert json.loads(site.keys("rotate", "--json"))["new"] is True


def test_rotate_with_a_key_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = SealedSite(tmp_path)
    key = os.urandom(32)
    monkeypatch.setenv("NEW_MASTER_KEY", base64.b64encode(key).decode())
    site.config.write_text(
        site.config.read_text() + '[vault]\nmaster_key = "env:NEW_MASTER_KEY"\n'
        'previous_keys = ["file:secrets/master.key"]\n'
    )

    told = json.loads(site.keys("rotate", "--json"))

    assert site.under() == {LocalMasterKey(key).key_id: 3}
    assert (told["key_id"], told["new"]) == (LocalMasterKey(key).key_id, False)
    with pytest.raises(KeyInUse, match="from where it is kept"):
        site.keys("retire", site.first)


def test_one_command_about_keys_at_a_time(site: SealedSite) -> None:
    import fcntl

    lock = site.data / "run" / "keys.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(GatewayError, match="another keys command is at work"):
            site.keys("rotate")


def test_retire_refuses_what_is_still_needed(site: SealedSite) -> None:
    old, new = KeyFile(site.master).renew()

    with pytest.raises(KeyInUse, match=f"3 files are under master key {old}"):
        site.keys("retire", old)
    site.keys("rotate")
    with pytest.raises(KeyInUse, match="3 files are under"):
        site.keys("retire", new)
    with pytest.raises(KeyInUse, match="no key 0123456789abcdef is kept"):
        site.keys("retire", "0123456789abcdef")
    assert [line["outcome"] for line in site.trail("key-retire")] == ["refused"] * 3


def test_retire_refuses_the_current_key_of_an_empty_site(tmp_path: Path) -> None:
    site = SealedSite(tmp_path, records=0)

    with pytest.raises(KeyInUse, match="is the current master key; rotate first"):
        KeyFile(site.master).retire(site.first)


def test_a_retired_key_is_gone(site: SealedSite) -> None:
    site.keys("rotate")
    kept = site.master.with_name(f"master.key.previous-{site.first}")
    assert kept.exists()

    site.keys("retire", site.first)

    assert {path.name for path in site.master.parent.iterdir()} == {"master.key"}
    assert site.all_open()
    with pytest.raises(InvalidSeal):
        site.ring().by_id(site.first)
    assert site.trail("key-retire")[-1]["key_id"] == site.first


def test_status_of_a_site_without_its_key(site: SealedSite) -> None:
    site.master.unlink()

    told = site.status()

    assert "is gone" in told["problem"]
    assert [(row["state"], row["files"]) for row in told["keys"]] == [("unknown", 3)]
    assert not site.master.exists()


def test_status_makes_no_key(tmp_path: Path) -> None:
    site = SealedSite(tmp_path, records=0)
    site.master.unlink()

    assert site.status()["keys"] == []
    assert not site.master.exists()


def test_no_key_is_made_where_sealed_files_are(site: SealedSite) -> None:
    site.master.unlink()

    with pytest.raises(ConfigurationError, match="restore it from its backup"):
        site.ring()
    with pytest.raises(ConfigurationError, match="restore it from its backup"):
        site.keys("rotate")
    assert not site.master.exists()


def test_another_user_may_not(site: SealedSite, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)

    with pytest.raises(GatewayError, match="give this command as that user"):
        site.keys("rotate")


def test_without_a_trail_no_key_is_made_or_destroyed(site: SealedSite) -> None:
    site.keys("rotate")
    before = {path: path.read_bytes() for path in site.master.parent.iterdir()}
    trail = site.data / "audit" / "audit.jsonl"
    trail.rename(trail.with_suffix(".kept"))
    trail.mkdir()  # nothing can be written there
    out = site.data.parent / "shares"

    for command in (
        ("retire", site.first),
        ("rotate",),
        ("backup", "--shares", "3", "--threshold", "2", "--out", out),
    ):
        with pytest.raises(OSError, match="directory"):
            site.keys(*command)

    assert {p: p.read_bytes() for p in site.master.parent.iterdir()} == before
    assert not out.exists()
