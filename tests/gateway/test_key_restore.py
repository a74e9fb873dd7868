"""A master key that is really lost comes back from its backup, or clearly not."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.rotation import uid_of
from gateway.errors import (
    BackupRefused,
    ConfigurationError,
    KeyErased,
    PassphraseMissing,
)
from gateway.sealing.backup import secret_of
from gateway.sealing.providers import provider_of
from tests.gateway.key_cases import SealedSite

PASSPHRASE = "six words of some random length"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SealedSite:
    monkeypatch.setenv("BACKUP_PASSPHRASE", PASSPHRASE)
    return SealedSite(tmp_path / "north")


def shares(site: SealedSite) -> list[Path]:
    """Shares 1 to 3, of which 2 are needed."""
    out = site.config.parent / "shares"
    site.keys("backup", "--shares", "3", "--threshold", "2", "--out", out)
    return sorted(out.iterdir())


def export(site: SealedSite) -> Path:
    path = site.config.parent / "key.export"
    site.keys("backup", "--export", path, "--passphrase-env", "BACKUP_PASSPHRASE")
    return path


def lose(site: SealedSite) -> bytes:
    secret = site.master.read_bytes()
    site.master.unlink()
    with pytest.raises(ConfigurationError, match="is gone"):
        site.vault()
    return secret


def gateway(site: SealedSite, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli.main", *arguments]
    return subprocess.run(
        [*command, "--config", str(site.config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["receiver", "worker"])
def test_without_its_key_the_gateway_does_not_start(
    site: SealedSite, part: str
) -> None:
    site.master.unlink()
    with site.config.open("a") as settings:
        settings.write("[receiver]\nplain_port = 0\n[recovery]\nplain_port = 0\n")

    ended = gateway(site, part)

    assert ended.returncode == 2
    assert "restore it from its backup" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not site.master.exists()


def test_two_of_three_shares_bring_a_lost_key_back(site: SealedSite) -> None:
    made = shares(site)
    secret = lose(site)

    told = site.keys("restore", made[2], made[0])

    assert site.master.read_bytes() == secret
    assert site.master.stat().st_mode & 0o777 == 0o600
    assert site.all_open()
    assert f"master key {site.first} is back" in told
    assert "3 files opened with it" in told
    assert site.trail("key-restore")[-1]["outcome"] == "success"
    assert site.status()["problem"] == ""


def test_an_export_brings_a_lost_key_back(site: SealedSite) -> None:
    made = export(site)
    lose(site)

    site.keys("restore", "--export", made, "--passphrase-env", "BACKUP_PASSPHRASE")

    assert site.all_open()


def test_files_of_a_backup_are_for_their_owner_only(site: SealedSite) -> None:
    for path in [*shares(site), export(site)]:
        assert path.stat().st_mode & 0o777 == 0o600
        assert site.master.read_bytes() not in path.read_bytes()
        assert site.first in path.read_text()


def test_a_passphrase_from_a_file(site: SealedSite, tmp_path: Path) -> None:
    given, made = tmp_path / "passphrase", tmp_path / "key.export"
    given.touch(mode=0o600)
    given.write_text(f"{PASSPHRASE}\n")
    site.keys("backup", "--export", made, "--passphrase-file", given)

    told = site.keys(
        "rehearse", "--export", made, "--passphrase-env", "BACKUP_PASSPHRASE"
    )

    assert "works" in told


def refused(site: SealedSite, match: str, *arguments: str | Path) -> None:
    """A restore is refused, audited, and leaves nothing behind."""
    before = set(site.master.parent.iterdir())
    with pytest.raises(BackupRefused, match=match):
        site.keys("restore", *arguments)
    assert set(site.master.parent.iterdir()) == before
    assert site.trail("key-restore")[-1]["outcome"] == "refused"


def test_too_few_shares(site: SealedSite) -> None:
    made = shares(site)
    lose(site)

    refused(site, "2 different shares are needed, here are 1", made[1])


def test_shares_of_two_sites(site: SealedSite, tmp_path: Path) -> None:
    other = SealedSite(tmp_path / "south")
    made, theirs = shares(site), shares(other)
    lose(site)

    refused(site, "the shares are of different keys", made[0], theirs[1])
    refused(site, "it is of another site", *theirs[:2])


def test_a_mistyped_word(site: SealedSite, tmp_path: Path) -> None:
    made = shares(site)
    lose(site)
    typed = tmp_path / "typed.txt"
    words = made[0].read_text().partition("words:")[2].replace(" 7 ", " 7 x")
    typed.write_text(words)

    refused(site, "typed.txt: word 7 is not in the list", typed, made[1])


def test_a_wrong_passphrase(site: SealedSite, monkeypatch: pytest.MonkeyPatch) -> None:
    made = export(site)
    lose(site)
    monkeypatch.setenv("BACKUP_PASSPHRASE", "another one that is long")

    wrong = ("--export", made, "--passphrase-env", "BACKUP_PASSPHRASE")
    refused(site, "of site north does not open: wrong passphrase", *wrong)


def test_a_passphrase_that_is_not_there(site: SealedSite) -> None:
    made = export(site)

    with pytest.raises(PassphraseMissing, match="variable NOWHERE is not set"):
        site.keys("rehearse", "--export", made, "--passphrase-env", "NOWHERE")
    with pytest.raises(PassphraseMissing, match="--passphrase-env"):
        site.keys("rehearse", "--export", made)


def test_another_key_is_not_replaced(site: SealedSite, tmp_path: Path) -> None:
    made = shares(site)
    secret = lose(site)
    other = SealedSite(tmp_path / "south")
    site.master.touch(mode=0o600)
    site.master.write_bytes(other.master.read_bytes())

    refused(site, f"holds key {other.first}, this is {site.first}", *made[:2])
    site.keys("restore", "--previous", *made[:2])

    assert site.master.read_bytes() == other.master.read_bytes()
    kept = site.master.with_name(f"master.key.previous-{site.first}")
    assert kept.read_bytes() == secret
    assert site.all_open()


def test_a_backup_is_not_written_over(site: SealedSite) -> None:
    shares(site)

    with pytest.raises(BackupRefused, match="is there; name another place"):
        shares(site)


def test_a_rehearsal_opens_files_and_writes_nothing(site: SealedSite) -> None:
    made = shares(site)
    before = {path: path.stat().st_mtime_ns for path in site.vault().paths()}

    told = site.keys("rehearse", "--all", *made[1:])

    assert f"the backup of master key {site.first} works: 3 files opened" in told
    assert {p: p.stat().st_mtime_ns for p in site.vault().paths()} == before
    line = site.trail("key-restore")[-1]
    assert (line["rehearsal"], line["opened"]) == ("yes", 3)
    (row,) = site.status()["keys"]
    assert row["backup"] <= row["rehearsal"] != ""


def test_a_rehearsal_opens_a_sample_of_many_files(site: SealedSite) -> None:
    made = shares(site)
    for number in range(120):
        site.seal(f"store/originals/ab/{number}.dcm")

    assert "100 files opened" in site.keys("rehearse", *made[:2])
    assert "123 files opened" in site.keys("rehearse", "--all", *made[:2])


def test_a_rehearsal_finds_a_record_that_does_not_open(site: SealedSite) -> None:
    made = shares(site)
    damaged = next(iter(site.vault().paths()))
    octets = bytearray(damaged.read_bytes())
    octets[-1] ^= 1
    damaged.write_bytes(octets)

    with pytest.raises(BackupRefused, match=f"does not open .*{damaged.name}"):
        site.keys("rehearse", "--all", *made[:2])


def test_a_backup_of_before_the_rotation_is_told_apart(site: SealedSite) -> None:
    made = shares(site)
    site.keys("rotate")

    with pytest.raises(BackupRefused, match="or of a key of before"):
        site.keys("rehearse", *made[:2])


def test_a_key_of_the_environment_is_backed_up(
    site: SealedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = site.master.read_bytes()
    monkeypatch.setenv("MASTER_KEY", base64.b64encode(secret).decode())
    settings = '[vault]\nmaster_key = "env:MASTER_KEY"\n'
    site.config.write_text(site.config.read_text() + settings)
    site.master.unlink()

    made = shares(site)

    assert "3 files opened" in site.keys("rehearse", *made[:2])
    with pytest.raises(BackupRefused, match="not in a file"):
        site.keys("restore", *made[:2])


def test_a_key_in_a_token_cannot_be_backed_up(site: SealedSite) -> None:
    uri = "pkcs11:token=x;object=y?module-path=/usr/lib/softhsm/libsofthsm2.so"

    with pytest.raises(BackupRefused, match="the token's own backup"):
        secret_of(provider_of(uri, site.data))


def test_an_erased_key_is_told(site: SealedSite) -> None:
    vault = site.vault()
    assert vault.erase(uid_of(1)) == (uid_of(1),)

    with pytest.raises(KeyErased, match="was erased: nothing gives its original back"):
        vault.get(uid_of(1))
    assert not vault.has(uid_of(1))
    vault.get(uid_of(2))
    with pytest.raises(KeyErased):
        vault.erase(uid_of(1))
