"""Secrets sealed under the master key, and clear ones of before taken over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from config.errors import ConfigurationError
from gateway.sealing import secretfile
from gateway.sealing.envelope import rewrap, sealed_under
from gateway.sealing.master import LocalMasterKey
from gateway.sealing.secrets import SecretStore
from tests.gateway.test_sealing_keys import private
from tests.gateway.test_sealing_slots import NEW, OLD, ROTATING

SECRET = b"a secret of 32 octets, no less!!"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


@pytest.fixture
def store(folder: Path) -> SecretStore:
    return SecretStore(folder, OLD)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_secret_is_made_once_and_sealed(store: SecretStore, folder: Path) -> None:
    secret = store.get("index", 32)
    assert len(secret) == 32
    assert SecretStore(folder, OLD).get("index", 32) == secret
    assert store.get("audit", 32) != secret
    assert names(folder) == ["audit.sealed", "index.sealed"]
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
        assert secret not in path.read_bytes()
        assert sealed_under(path) == {OLD.key_id}


def test_what_is_made_by_others_is_kept_too(store: SecretStore) -> None:
    assert store.get_or_make("signer.pem", lambda: b"made") == b"made"
    assert store.get_or_make("signer.pem", lambda: b"made again") == b"made"


def test_processes_that_start_at_once_get_one_secret(folder: Path) -> None:
    private(folder / "uid.key", SECRET)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from gateway.sealing.master import LocalMasterKey\n"
        "from gateway.sealing.secrets import SecretStore\n"
        "store = SecretStore(Path(sys.argv[1]), LocalMasterKey(b'o' * 32))\n"
        "sys.stdin.readline()\n"
        "print(store.get('index', 32).hex(), store.get('uid.key', 32).hex())\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    found = [child.communicate()[0] for child in children]
    assert {child.returncode for child in children} == {0}
    assert len(set(found)) == 1
    assert found[0].decode().split()[1] == SECRET.hex()
    assert names(folder) == ["index.sealed", "uid.key.sealed"]


# Secrets of earlier releases


def test_a_clear_secret_is_sealed_and_wiped(store: SecretStore, folder: Path) -> None:
    clear = private(folder / "uid.key", SECRET)
    kept = clear.with_name("kept")
    kept.hardlink_to(clear)  # shows what the disk holds where the file was
    assert store.get("uid.key", 32) == SECRET
    assert kept.read_bytes() == bytes(32)
    assert names(folder) == ["kept", "uid.key.sealed"]
    assert store.get("uid.key", 32) == SECRET


@pytest.mark.parametrize("stopped", ["before wiping", "after wiping"])
def test_taking_over_may_be_interrupted(
    store: SecretStore, folder: Path, monkeypatch: pytest.MonkeyPatch, stopped: str
) -> None:
    clear = private(folder / "uid.key", SECRET)
    if stopped == "before wiping":
        monkeypatch.setattr("gateway.sealing.secrets.overwrite", lambda _: 1 / 0)
    else:
        monkeypatch.setattr(Path, "unlink", _only_drafts(Path.unlink))
    with pytest.raises(ZeroDivisionError):
        store.get("uid.key", 32)
    monkeypatch.undo()
    assert not clear.exists()
    assert len(names(folder)) == 2
    assert store.get("uid.key", 32) == SECRET
    assert names(folder) == ["uid.key.sealed"]


def _only_drafts(unlink: Callable[..., None]) -> Callable[..., None]:
    def failing(path: Path, missing_ok: bool = False) -> None:
        if path.name.endswith(".taken-over"):
            raise ZeroDivisionError
        unlink(path, missing_ok=missing_ok)

    return failing


def test_two_secrets_of_one_name_are_left_to_people(
    store: SecretStore, folder: Path
) -> None:
    store.get("uid.key", 32)
    clear = private(folder / "uid.key", SECRET)
    with pytest.raises(ConfigurationError, match="remove whichever is wrong"):
        store.get("uid.key", 32)
    assert clear.read_bytes() == SECRET
    (folder / "uid.key.sealed").unlink()
    assert store.get("uid.key", 32) == SECRET


def test_what_cannot_be_the_secret_is_not_taken_over(
    store: SecretStore, folder: Path
) -> None:
    clear = private(folder / "uid.key", SECRET[:31])
    with pytest.raises(ConfigurationError, match="31 octets instead of 32"):
        store.get("uid.key", 32)
    private(clear, SECRET, 0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        store.get("uid.key", 32)
    assert names(folder) == ["uid.key"]


# What must not open


def test_a_secret_under_another_name_is_refused(
    store: SecretStore, folder: Path
) -> None:
    store.get("index", 32)
    store.get("audit", 32)
    (folder / "audit.sealed").replace(folder / "index.sealed")
    with pytest.raises(ConfigurationError, match="another secret"):
        store.get("index", 32)


def test_secrets_that_do_not_open(store: SecretStore, folder: Path) -> None:
    secret = store.get("index", 32)
    with pytest.raises(ConfigurationError, match=OLD.key_id):
        SecretStore(folder, LocalMasterKey(bytes(32))).get("index", 32)
    path = folder / "index.sealed"
    sealed = path.read_bytes()
    for at in range(0, len(sealed), 7):
        path.write_bytes(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        if at in range(140, 208):  # the spare slot
            assert store.get("index", 32) == secret
            continue
        with pytest.raises(ConfigurationError, match="from its backup") as refused:
            store.get("index", 32)
        assert secret.hex() not in str(refused.value)
    path.write_bytes(sealed)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        store.get("index", 32)


def test_a_folder_that_cannot_be_made(folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(ConfigurationError, match="give this user a folder"):
        SecretStore(folder, OLD).get("index", 32)


@pytest.mark.parametrize("name", ["", "../index", "a/b", ".hidden", "UPPER"])
def test_names_that_are_none(store: SecretStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        store.get(name, 32)


def test_secrets_rotate_like_everything_sealed(folder: Path) -> None:
    secret = SecretStore(folder, OLD).get("index", 32)
    assert rewrap(folder / "index.sealed", ROTATING)
    assert SecretStore(folder, NEW).get("index", 32) == secret


def test_large_files_are_wiped_whole(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (secretfile.WIPE * 2 + 5))
    secretfile.overwrite(path)
    assert path.read_bytes() == bytes(secretfile.WIPE * 2 + 5)
