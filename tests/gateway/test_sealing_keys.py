"""Where master keys come from, and how running processes follow a new one."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.errors import ConfigurationError
from config.schema import Vault
from gateway.errors import GatewayError, InvalidSeal, KeyUnavailable
from gateway.sealing.envelope import open_bytes, rewrap, seal_bytes, sealed_under
from gateway.sealing.master import FileMasterKey, LocalMasterKey, key_id_of
from gateway.sealing.providers import Environment, provider_of, read_secret
from gateway.sealing.ring import PREVIOUS, KeyRing, open_ring, previous_files

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


def private(path: Path, octets: bytes, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.touch(mode=0o600)
    path.write_bytes(octets)
    path.chmod(mode)
    return path


def environment(folder: Path | None = None, **variables: str) -> Environment:
    if folder is not None:
        variables["CREDENTIALS_DIRECTORY"] = str(folder)
    return Environment(variables)


# Names of keys


def test_the_name_of_a_key_says_which_and_nothing_more() -> None:
    name = LocalMasterKey(KEY).key_id
    assert name == key_id_of(KEY) == "87887440e7de7207"  # never changes
    assert len({key_id_of(bytes([n]) * 32) for n in range(200)}) == 200


def test_a_single_key_is_keys_too(tmp_path: Path) -> None:
    key = FileMasterKey(tmp_path / "master.key")
    assert key.current() is key
    assert key.by_id(key.key_id) is key
    assert list(key.known()) == [key]
    with pytest.raises(InvalidSeal, match="0123456789abcdef"):
        key.by_id("0123456789abcdef")


# Sources of master keys


def test_every_source_gives_the_key(tmp_path: Path) -> None:
    private(tmp_path / "secrets" / "raw", KEY)
    private(tmp_path / "credentials" / "raw", KEY, 0o440)
    private(tmp_path / "credentials" / "text", TEXT.encode() + b"\n", 0o400)
    around = environment(tmp_path / "credentials", MIAD_KEY=TEXT)
    for source in (
        "file:secrets/raw",
        f"file:{tmp_path}/secrets/raw",
        "env:MIAD_KEY",
        "env:MIAD_KEY",
        "credential:raw",
        "credential:text",
    ):
        ring = open_ring(Vault(master_key=source), tmp_path, around)
        assert ring.current().key_id == key_id_of(KEY), source


def test_a_key_in_the_environment_is_not_handed_on(tmp_path: Path) -> None:
    variables = {"MIAD_KEY": TEXT, "PATH": "/bin"}
    around = Environment(variables)
    open_ring(Vault(master_key="env:MIAD_KEY"), tmp_path, around)
    assert variables == {"PATH": "/bin"}
    code = (
        "import os, subprocess, sys, pathlib\n"
        "from config.schema import Vault\n"
        "from gateway.sealing.ring import open_ring\n"
        "open_ring(Vault(master_key='env:MIAD_KEY'), pathlib.Path(sys.argv[1]))\n"
        "print(sorted(os.environ))\n"
        "subprocess.run(['cat', '/proc/self/environ'], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "MIAD_KEY": TEXT},
        stdout=subprocess.PIPE,
        check=True,
    )
    assert b"PATH" in done.stdout
    assert b"MIAD_KEY" not in done.stdout
    assert TEXT.encode() not in done.stdout


Setup = Callable[[Path], object]
MISTAKES: dict[str, tuple[str, Setup, dict[str, str], str]] = {
    "file gone": ("file:none", lambda _: None, {}, "restore it from its backup"),
    "file open to others": (
        "file:key",
        lambda d: private(d / "key", KEY, 0o640),
        {},
        "chmod 600",
    ),
    "file too short": (
        "file:key",
        lambda d: private(d / "key", KEY[:31]),
        {},
        "31 octets instead of 32",
    ),
    "file is a folder": ("file:key", lambda d: (d / "key").mkdir(), {}, "key"),
    "variable not set": ("env:NAME", lambda _: None, {}, "NAME is not set"),
    "variable empty": ("env:NAME", lambda _: None, {"NAME": ""}, "is not set"),
    "variable no base64": (
        "env:NAME",
        lambda _: None,
        {"NAME": "!" * 44},
        "openssl rand -base64 32",
    ),
    "variable another length": (
        "env:NAME",
        lambda _: None,
        {"NAME": base64.b64encode(KEY[:16]).decode()},
        "openssl rand -base64 32",
    ),
    "no credentials": ("credential:key", lambda _: None, {}, "LoadCredential="),
    "credential gone": (
        "credential:key",
        lambda _: None,
        {"CREDENTIALS_DIRECTORY": "/nonexistent"},
        "LoadCredential=key:PATH",
    ),
    "credential with folders": (
        "credential:../key",
        lambda _: None,
        {"CREDENTIALS_DIRECTORY": "/nonexistent"},
        "without folders",
    ),
    "no kind": ("vault:key", lambda _: None, {}, "file:PATH"),
    "nowhere": ("file:", lambda _: None, {}, "file:PATH"),
}


@pytest.mark.parametrize("case", list(MISTAKES))
def test_sources_without_a_key_say_what_to_do(case: str, tmp_path: Path) -> None:
    source, prepare, variables, remedy = MISTAKES[case]
    prepare(tmp_path)
    with pytest.raises(ConfigurationError, match=remedy):
        provider_of(source, tmp_path, Environment(dict(variables))).load()


@pytest.mark.parametrize(("octets", "mode"), [(KEY[:9], 0o400), (KEY, 0o404)])
def test_credentials_that_are_none(tmp_path: Path, octets: bytes, mode: int) -> None:
    private(tmp_path / "key", octets, mode)
    with pytest.raises(ConfigurationError, match="credential key"):
        provider_of("credential:key", tmp_path, environment(tmp_path)).load()


# Passphrases and PINs


def test_secrets_lose_the_end_of_their_line_only(tmp_path: Path) -> None:
    private(tmp_path / "pin", b" 12 34 \r\n")
    around = environment(tmp_path, PIN="1234")
    assert read_secret("file:pin", tmp_path, around) == b" 12 34 "
    assert read_secret("credential:pin", tmp_path, around) == b" 12 34 "
    assert read_secret("env:PIN", tmp_path, around) == b"1234"
    assert read_secret("env:PIN", tmp_path, around) == b"1234"


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("file:none", "mode 0600"),
        ("file:open", "chmod 600"),
        ("file:empty", "the right one"),
        ("file:huge", "the right one"),
        ("env:NONE", "NONE is not set"),
        ("credential:none", "LoadCredential"),
        ("pkcs11:token=a;object=b", "master keys only"),
        ("secret itself", "file:PATH"),
    ],
)
def test_secrets_that_are_none(tmp_path: Path, source: str, remedy: str) -> None:
    private(tmp_path / "open", b"1234", 0o644)
    private(tmp_path / "empty", b"\n")
    private(tmp_path / "huge", bytes(1 << 17))
    with pytest.raises(ConfigurationError, match=remedy):
        read_secret(source, tmp_path, environment(tmp_path))


# No secret in any error


def texts_of(error: BaseException) -> str:
    """Everything a log could show of an error and what caused it."""
    texts = []
    current: BaseException | None = error
    while current is not None:
        texts += [str(current), repr(current), repr(current.args)]
        current = current.__cause__ or current.__context__
    return "\n".join(texts)


secrets_of_people = (
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=12)
    .map("S3{}".format)
    .filter(lambda text: len(text) not in (32, 44))  # those would be keys
)


@given(secrets_of_people, st.sampled_from(["file", "env", "credential"]))
def test_no_error_about_a_wrong_key_shows_it(secret: str, kind: str) -> None:
    octets = secret.encode()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for mode in (0o600, 0o644):
            private(folder / "key", octets, mode)
            around = environment(folder, key=secret)
            with pytest.raises(ConfigurationError) as wrong:
                provider_of(f"{kind}:key", folder, around).load()
            assert secret[2:] not in texts_of(wrong.value)


@given(secrets_of_people)
def test_a_secret_put_in_place_of_its_source_is_not_shown(secret: str) -> None:
    if secret.partition(":")[0] in ("file", "env", "credential", "pkcs11"):
        return
    for work in (provider_of, read_secret):
        with pytest.raises(ConfigurationError) as wrong:
            work(secret, Path(), environment())
        assert secret not in texts_of(wrong.value)


@given(secrets_of_people, st.sampled_from(["pin-value", "pin_value", "PIN", "pin"]))
def test_a_pin_in_the_uri_of_a_token_is_refused_unseen(secret: str, name: str) -> None:
    value = secret.replace("&", "x").replace(";", "x").replace("?", "x")
    for uri in (
        f"pkcs11:token=a;object=b?{name}={value}",
        f"pkcs11:token=a;object=b;{name}={value}",
    ):
        with pytest.raises(ConfigurationError) as wrong:
            provider_of(uri, Path(), environment())
        assert value not in texts_of(wrong.value)


# Rings


def ring_of(folder: Path) -> KeyRing:
    return open_ring(Vault(), folder, environment())


def key_file(folder: Path) -> Path:
    return folder / "secrets" / "master.key"


def renewed(path: Path) -> str:
    """What a rotation does to a key file; returns the name of the new key."""
    old, key = key_id_of(path.read_bytes()), os.urandom(32)
    path.with_name(f"{path.name}{PREVIOUS}{old}").hardlink_to(path)
    private(path.with_name("next"), key).replace(path)
    return key_id_of(key)


def test_a_key_file_is_made_on_first_use(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    assert key_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert ring_of(tmp_path).current().key_id == ring.current().key_id


@pytest.mark.parametrize("sealed", ["secrets/uid.key.sealed", "vault/0f/1.2.3.miad"])
def test_no_key_is_made_where_something_is_sealed_already(
    tmp_path: Path, sealed: str
) -> None:
    """A disk that is not mounted must not end in a site under two keys."""
    private(tmp_path / sealed, b"sealed")
    with pytest.raises(ConfigurationError, match="restore it from its backup"):
        ring_of(tmp_path)
    assert not key_file(tmp_path).exists()


def test_every_process_follows_a_new_key_at_its_next_seal(tmp_path: Path) -> None:
    ring, other = ring_of(tmp_path), ring_of(tmp_path)
    old = ring.current().key_id
    sealed = seal_bytes(b"content", ring)
    new = renewed(key_file(tmp_path))
    for each in (ring, other, ring_of(tmp_path)):
        assert each.current().key_id == new != old
        assert [key.key_id for key in each.known()] == [new, old]
        assert open_bytes(sealed, each) == (b"", b"content")
    path = private(tmp_path / "sealed", sealed)
    assert rewrap(path, ring)
    assert sealed_under(path) == {new}
    (previous,) = previous_files(key_file(tmp_path))
    previous.unlink()
    fresh = ring_of(tmp_path)
    assert [key.key_id for key in fresh.known()] == [new]
    with pytest.raises(InvalidSeal, match=old):
        open_bytes(sealed, fresh)


def test_an_unknown_key_is_looked_for_before_it_is_missed(tmp_path: Path) -> None:
    """A process that sealed nothing since the rotation opens what others did."""
    reader, writer = ring_of(tmp_path), ring_of(tmp_path)
    renewed(key_file(tmp_path))
    assert open_bytes(seal_bytes(b"content", writer), reader) == (b"", b"content")


def test_nothing_is_sealed_when_the_key_file_is_gone(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    sealed = seal_bytes(b"content", ring)
    key_file(tmp_path).unlink()
    with pytest.raises(KeyUnavailable, match="restore it from its backup"):
        seal_bytes(b"more", ring)
    with pytest.raises(KeyUnavailable):  # and nothing is called damaged
        open_bytes(seal_bytes(b"", LocalMasterKey(KEY)), ring)
    assert open_bytes(sealed, ring) == (b"", b"content")


def test_previous_keys_open_and_are_not_sealed_under(tmp_path: Path) -> None:
    before = FileMasterKey(tmp_path / "old.key")
    sealed = seal_bytes(b"content", before)
    settings = Vault(master_key="env:KEY", previous_keys=("file:old.key",))
    ring = open_ring(settings, tmp_path, environment(KEY=TEXT))
    assert open_bytes(sealed, ring) == (b"", b"content")
    assert open_bytes(seal_bytes(b"", ring), LocalMasterKey(KEY)) == (b"", b"")
    assert ring.by_id(before.key_id).key_id == before.key_id


def test_keys_kept_beside_a_previous_file_count_too(tmp_path: Path) -> None:
    """A rotation of the file was under way when the key moved elsewhere."""
    sealed = seal_bytes(b"content", FileMasterKey(tmp_path / "old.key"))
    renewed(tmp_path / "old.key")
    settings = Vault(master_key="env:KEY", previous_keys=("file:old.key",))
    ring = open_ring(settings, tmp_path, environment(KEY=TEXT))
    assert len(ring.known()) == 3
    assert open_bytes(sealed, ring) == (b"", b"content")


def test_threads_never_see_half_a_rotation(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)
    stop, failures = threading.Event(), []

    def seal_and_open() -> None:
        while not stop.is_set():
            try:
                assert open_bytes(seal_bytes(b"content", ring), ring)[1] == b"content"
            except (GatewayError, ConfigurationError) as error:
                failures.append(error)

    threads = [threading.Thread(target=seal_and_open) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        renewed(key_file(tmp_path))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(ring.known()) == 21
