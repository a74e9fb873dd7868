"""Master keys in a token: SoftHSM2, as it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from typer.testing import CliRunner

from config.errors import ConfigurationError
from config.schema import Vault
from gateway.cli.main import build_app
from gateway.errors import InvalidSeal, KeyUnavailable
from gateway.sealing import token as token_module
from gateway.sealing.envelope import open_bytes, rewrap, seal_bytes, sealed_under
from gateway.sealing.master import WRAPPED_LENGTH, LocalMasterKey, MasterKey
from gateway.sealing.providers import Environment, provider_of
from gateway.sealing.ring import KeyRing, open_ring
from gateway.sealing.token import make_token_key
from gateway.sealing.token_uri import parse_uri
from tests.gateway.test_sealing_keys import private, texts_of

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "1298-hospital"
NOWHERE = Environment({})

pytestmark = pytest.mark.skipif(
    not MODULE.exists() or which("softhsm2-util") is None,
    reason="SoftHSM2 is not installed (Debian: softhsm2)",
)


def source_of(label: str, token: str = "hospital", pin: str = "file:pin") -> str:
    return f"pkcs11:token={token};object={label}?module-path={MODULE}&pin-source={pin}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder with a token of its own, and its PIN."""
    import pkcs11

    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    private(folder / "pin", PIN.encode() + b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(conf))
        options = ["--init-token", "--free", "--label", "hospital"]
        subprocess.run(
            ["softhsm2-util", *options, "--pin", PIN, "--so-pin", "87654321"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        library = pkcs11.lib(str(MODULE))
        make_token_key(source_of("miad"), folder, NOWHERE)
        yield folder
        library.finalize()


def ring_of(folder: Path, label: str = "miad", *previous: str) -> KeyRing:
    settings = Vault(master_key=source_of(label), previous_keys=previous)
    return open_ring(settings, folder, NOWHERE)


@pytest.fixture
def key(folder: Path) -> MasterKey:
    return ring_of(folder).current()


def test_it_seals_and_opens_by_the_token(folder: Path) -> None:
    ring = ring_of(folder)
    key_id = ring.current().key_id
    sealed = seal_bytes(b"content", ring, b"context")
    assert open_bytes(sealed, ring_of(folder)) == (b"context", b"content")
    with pytest.raises(InvalidSeal, match=key_id):
        open_bytes(sealed, LocalMasterKey(bytes(32)))


def test_what_it_wraps_opens_for_its_context_only(key: MasterKey) -> None:
    wrapped = key.wrap(b"d" * 32, b"context")
    assert len(wrapped) == WRAPPED_LENGTH
    assert key.unwrap(wrapped, b"context") == b"d" * 32
    assert key.wrap(b"d" * 32, b"context") != wrapped
    for altered, context in (
        (wrapped, b"other"),
        (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b"context"),
        (bytes([wrapped[0] ^ 1]) + wrapped[1:], b"context"),
        (wrapped[:-1], b"context"),
        (b"", b"context"),
    ):
        with pytest.raises(InvalidSeal):
            key.unwrap(altered, context)
    assert key.unwrap(wrapped, b"context") == b"d" * 32


@pytest.mark.usefixtures("folder")
def test_the_key_cannot_be_taken_out() -> None:
    import pkcs11

    token = pkcs11.lib(str(MODULE)).get_token(token_label="hospital")
    with token_module.CALLS:
        key = token.open().get_key(label="miad")
        assert key[pkcs11.Attribute.EXTRACTABLE] is False
        assert key[pkcs11.Attribute.SENSITIVE] is True
        with pytest.raises(pkcs11.exceptions.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_many_threads_share_it(folder: Path) -> None:
    ring, failures = ring_of(folder), []

    def work(number: int) -> None:
        content = bytes([number]) * 100
        opened = {open_bytes(seal_bytes(content, ring), ring)[1] for _ in range(60)}
        failures.extend(opened - {content})

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_session_that_is_lost_is_opened_again(key: MasterKey) -> None:
    """As after the token was pulled, or its server restarted."""
    wrapped = key.wrap(b"d" * 32, b"context")
    for work in (
        lambda: key.unwrap(wrapped, b"context"),
        lambda: key.unwrap(key.wrap(b"d" * 32, b"c"), b"c"),
    ):
        with token_module.CALLS:
            key._token._session.close()  # type: ignore[attr-defined]
        assert work() == b"d" * 32


def test_rotation_from_a_file_into_the_token_and_on(
    folder: Path, tmp_path: Path
) -> None:
    private(folder / "old.key", b"o" * 32)
    path = tmp_path / "sealed"
    path.write_bytes(seal_bytes(b"content", LocalMasterKey(b"o" * 32)))
    assert rewrap(path, ring_of(folder, "miad", "file:old.key"))
    assert sealed_under(path) == {ring_of(folder).current().key_id}
    second = make_token_key(source_of("second"), folder, NOWHERE)
    ring = ring_of(folder, "second", source_of("miad"))
    assert rewrap(path, ring)
    assert sealed_under(path) == {second}
    assert open_bytes(path.read_bytes(), ring_of(folder, "second"))[1] == b"content"


def test_another_process_finds_the_key(folder: Path, key: MasterKey) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom config.schema import Vault\n"
        "from gateway.sealing.ring import open_ring\n"
        "ring = open_ring(Vault(master_key=sys.argv[1]), Path(sys.argv[2]))\n"
        "print(ring.current().key_id)\n"
    )
    command = [sys.executable, "-c", code, source_of("miad"), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.strip() == key.key_id


def test_a_key_is_not_made_twice(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="already"):
        make_token_key(source_of("miad"), folder, NOWHERE)


def test_keys_that_could_be_taken_out_are_refused(folder: Path) -> None:
    import pkcs11

    with token_module.CALLS:
        session = token_module.open_session(
            parse_uri(source_of("weak"), folder), PIN.encode, pkcs11, writable=True
        )
        session.generate_key(pkcs11.KeyType.AES, 128, label="short", store=True)
        session.generate_key(
            pkcs11.KeyType.AES,
            256,
            label="open",
            store=True,
            template={pkcs11.Attribute.EXTRACTABLE: True},
        )
    for label in ("short", "open"):
        with pytest.raises(ConfigurationError, match="make-in-token"):
            ring_of(folder, label)


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (source_of("miad", token="clinic"), "it has: .*'hospital'"),
        (source_of("nothing"), "keys make-in-token"),
        (source_of("miad").replace("libsofthsm2", "libnone"), "module-path="),
        (source_of("miad").replace(str(MODULE), "pin"), "module-path="),
        (source_of("miad", pin="file:none"), "mode 0600"),
        (source_of("miad", pin="env:NONE"), "NONE is not set"),
        ("pkcs11:object=miad", "token=LABEL"),
        ("pkcs11:token=hospital", "object=LABEL"),
        ("pkcs11:token=hospital;object=miad;type=private", "secret-key"),
        ("pkcs11:token=hospital;object=%FF", "UTF-8"),
        ("pkcs11:token=hospital;tokken=a;object=b", "not understood"),
        ("pkcs11:token=hospital;token=a;object=b", "twice"),
        ("pkcs11:token=hospital;object", "not understood"),
    ],
)
def test_tokens_that_are_none_say_what_to_do(
    folder: Path, source: str, remedy: str
) -> None:
    with pytest.raises(ConfigurationError, match=remedy) as wrong:
        provider_of(source, folder, NOWHERE).load()
    assert PIN not in texts_of(wrong.value)


def in_a_process_of_its_own(folder: Path, source: str) -> subprocess.CompletedProcess:
    """Open a key where nobody is logged in yet."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from gateway.sealing.providers import provider_of\n"
        "provider_of(sys.argv[1], Path(sys.argv[2])).load()\n"
    )
    command = [sys.executable, "-c", code, source, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("pin", ["wrong-pin", "x", "p" * 300])
def test_a_wrong_pin_is_refused_and_not_shown(folder: Path, pin: str) -> None:
    private(folder / "wrong", pin.encode())
    done = in_a_process_of_its_own(folder, source_of("miad", pin="file:wrong"))
    assert done.returncode != 0
    assert "refuses the PIN" in done.stderr
    assert "file:wrong" in done.stderr
    if len(pin) > 1:
        assert pin not in done.stderr


def test_without_a_pin_there_is_no_key(folder: Path) -> None:
    source = source_of("miad").replace("&pin-source=file:pin", "")
    done = in_a_process_of_its_own(folder, source)
    assert "no such AES key" in done.stderr


def test_a_token_that_goes_away_is_no_invalid_seal(
    folder: Path, key: MasterKey
) -> None:
    """Nothing may be called damaged because its key cannot be asked."""
    import pkcs11

    wrapped = key.wrap(b"d" * 32, b"context")
    pkcs11.lib(str(MODULE)).finalize()
    tokens = (folder / "tokens").rename(folder / "away")
    (folder / "tokens").mkdir()
    try:
        with pytest.raises(KeyUnavailable, match="no such token"):
            key.unwrap(wrapped, b"context")
        with pytest.raises(KeyUnavailable, match="no such token"):
            key.wrap(b"d" * 32, b"context")
    finally:
        pkcs11.lib(str(MODULE)).finalize()
        (folder / "tokens").rmdir()
        tokens.rename(folder / "tokens")
    assert key.unwrap(wrapped, b"context") == b"d" * 32  # it is plugged in again


def test_the_package_is_named_where_it_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ConfigurationError, match=r"miad-gateway\[pkcs11\]"):
        provider_of(source_of("miad"), folder, NOWHERE).load()


def test_the_command_makes_a_key_and_notes_it(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    source = source_of("by-command", pin=f"file:{folder}/pin")
    site.write_text(f'data_directory = "data"\n[vault]\nmaster_key = "{source}"\n')
    command = ["keys", "make-in-token", "--config", str(site)]
    done = CliRunner().invoke(build_app(), [*command, "--json"])
    assert done.exit_code == 0, done.output
    ring = ring_of(folder, "by-command")
    assert json.loads(done.stdout) == {"key_id": ring.current().key_id}
    trail = b"".join(
        path.read_bytes()
        for path in (tmp_path / "data" / "audit").rglob("*")
        if path.is_file()
    )
    assert trail
    assert PIN.encode() not in trail + done.output.encode()
    again = CliRunner().invoke(build_app(), command)
    assert "already" in str(again.exception)
    other = CliRunner().invoke(build_app(), [*command, "file:x"])
    assert "no token is named" in str(other.exception)
