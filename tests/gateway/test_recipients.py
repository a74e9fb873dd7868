"""Certificates, envelopes and signatures; and the commands around them."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
    pkcs7,
)
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1_modules import rfc5652
from typer.testing import CliRunner, Result

from config.errors import ConfigurationError
from gateway.cli.main import build_app
from gateway.errors import InvalidSeal, PassphraseMissing, PrivateKeyRefused
from gateway.route.recipients import recipient_warnings
from gateway.route.rules import load_checked
from gateway.sealing.master import FileMasterKey, LocalMasterKey
from gateway.sealing.secrets import SecretStore
from gateway.vault.recipients import (
    RecipientKey,
    envelop,
    expiry_warning,
    load_recipient_key,
    load_recipients,
    open_envelope,
)
from gateway.vault.signer import (
    Signer,
    fingerprint,
    load_signer,
    verify_content,
    verify_statement,
    without_padding,
)
from tests.gateway.object_cases import corpus_file
from tests.gateway.recipient_cases import (
    DAY,
    NOW,
    certificate_of,
    key_pem,
    key_usage,
    made,
    pem,
    recipient,
    rsa_key,
    site_signer,
    with_key,
)

STATEMENT = b"octets that a site signs"
PASSPHRASE = b"correct horse"


def written(path: Path, octets: bytes) -> Path:
    path.write_bytes(octets)
    return path


def no_passphrase() -> bytes:
    raise AssertionError("this key is not encrypted")


# Certificates of recipients


def test_good_certificates(tmp_path: Path) -> None:
    paths = [written(tmp_path / n, pem(recipient(n).certificate)) for n in ("a", "b")]
    assert load_recipients(paths, now=NOW) == tuple(
        recipient(name).certificate for name in ("a", "b")
    )


def test_key_usage_may_allow_it(tmp_path: Path) -> None:
    allowed = certificate_of(rsa_key("a"), usage=key_usage(key_encipherment=True))
    path = written(tmp_path / "a.pem", pem(allowed))
    assert load_recipients([path], now=NOW) == (allowed,)


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"", "convert it"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "convert"),
        (recipient("a").certificate.public_bytes(Encoding.DER), "convert it"),
        (pem(recipient("a").certificate) * 2, "2 certificates"),
        (key_pem(rsa_key("a")) + pem(recipient("a").certificate), "a private key"),
        (pem(certificate_of(ec.generate_private_key(ec.SECP256R1()))), "not RSA"),
        (pem(certificate_of(rsa_key("weak", 1024))), "RSA of 1024 bits"),
        (pem(certificate_of(rsa_key("a"), end=NOW - DAY / 2)), "expired on 2026-05-31"),
        (pem(certificate_of(rsa_key("a"), start=NOW + DAY)), "only from 2026-06-02"),
        (
            pem(certificate_of(rsa_key("a"), usage=key_usage(digital_signature=True))),
            "does not allow key encipherment",
        ),
    ],
)
def test_unfit_certificates_name_file_and_remedy(
    tmp_path: Path, octets: bytes, words: str
) -> None:
    path = written(tmp_path / "them.pem", octets)
    with pytest.raises(ConfigurationError, match=words) as refused:
        load_recipients([path], now=NOW)
    assert str(path) in str(refused.value)


def test_a_missing_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.pem: cannot be read: No such"):
        load_recipients([tmp_path / "none.pem"])


def test_recipients_that_an_envelope_cannot_tell_apart(tmp_path: Path) -> None:
    twins = [certificate_of(rsa_key(name), "twin", serial=7) for name in ("a", "b")]
    paths = [
        written(tmp_path / f"{number}.pem", pem(each))
        for number, each in enumerate(twins)
    ]
    with pytest.raises(ConfigurationError, match=r"1\.pem: issuer .*0\.pem"):
        load_recipients(paths, now=NOW)


@pytest.mark.parametrize(("days", "told"), [(29, True), (31, False)])
def test_certificates_that_soon_expire_are_told(
    tmp_path: Path, days: int, told: bool
) -> None:
    soon = certificate_of(rsa_key("a"), end=NOW + days * DAY)
    path = written(tmp_path / "a.pem", pem(soon))
    warning = expiry_warning(path, now=NOW)
    assert bool(warning) is told
    assert not told or "expires on 2026-06-30" in warning


SITE = """\
data_directory = "data"

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = 11130
plain = true
recipients = ["certificates/anna.pem", "certificates/ben.pem"]

[receiver]
plain_port = 0
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site file with certificates beside it, named by relative paths."""
    (tmp_path / "certificates").mkdir()
    for name in ("anna", "ben"):
        certificate = pem(recipient(name).certificate)
        written(tmp_path / "certificates" / f"{name}.pem", certificate)
    return written(tmp_path / "site.toml", SITE.encode())


def test_certificates_are_read_beside_the_site_file(site: Path) -> None:
    loaded = load_checked(site, {})
    assert loaded.destinations[0].recipients == tuple(
        site.parent / "certificates" / f"{name}.pem" for name in ("anna", "ben")
    )
    assert recipient_warnings(loaded) == []


def test_a_bad_certificate_refuses_the_site(site: Path) -> None:
    written(site.parent / "certificates" / "ben.pem", b"nothing")
    with pytest.raises(ConfigurationError) as refused:
        load_checked(site, {})
    message = str(refused.value)
    assert message.startswith(f"{site}, line 9")
    assert "ben.pem: not an X.509 certificate in PEM" in message


# Keys of recipients


def test_certificate_beside_the_key_or_in_its_file(tmp_path: Path) -> None:
    own = recipient("a")
    alone = written(tmp_path / "key.pem", key_pem(own.private_key))
    certificate = written(tmp_path / "cert.pem", pem(own.certificate))
    both = written(tmp_path / "both.pem", alone.read_bytes() + certificate.read_bytes())
    for paths in ((alone, certificate), (both, None)):
        loaded = load_recipient_key(*paths, no_passphrase)
        assert loaded.certificate == own.certificate
    with pytest.raises(PrivateKeyRefused, match=r"key\.pem holds no certificate"):
        load_recipient_key(alone, None, no_passphrase)


def test_passphrases(tmp_path: Path) -> None:
    own = recipient("a")
    octets = key_pem(own.private_key, PASSPHRASE) + pem(own.certificate)
    path = written(tmp_path / "key.pem", octets)
    assert load_recipient_key(path, None, lambda: PASSPHRASE).certificate
    for wrong in (b"", b"staple"):
        with pytest.raises(PassphraseMissing, match="is encrypted") as refused:
            load_recipient_key(path, None, lambda: wrong)  # noqa: B023 - called now
        assert refused.value.__cause__ is None


def test_files_that_are_not_the_recipients_key(tmp_path: Path) -> None:
    certificate = written(tmp_path / "cert.pem", pem(recipient("a").certificate))
    other = written(tmp_path / "b.pem", key_pem(rsa_key("b")))
    secret = site_signer()._key
    assert isinstance(secret, ec.EllipticCurvePrivateKey)
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    elliptic = written(
        tmp_path / "ec.pem",
        secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    for key, words in (
        (other, "is not that of the private key"),
        (certificate, "holds no private key"),
        (elliptic, "is not RSA"),
        (tmp_path / "none.pem", "cannot be read"),
    ):
        with pytest.raises(PrivateKeyRefused, match=words):
            load_recipient_key(key, certificate, no_passphrase)


def test_keys_are_not_shown() -> None:
    for shown in (repr(recipient("a")), repr(site_signer())):
        assert "PrivateKey" not in shown
        assert "private_key" not in shown


# Envelopes


def test_each_recipient_opens_and_nobody_else() -> None:
    enveloped = envelop(b"key", [recipient(n).certificate for n in ("a", "b", "c")])
    for name in ("a", "b", "c"):
        assert open_envelope(enveloped, recipient(name)) == b"key"
    with pytest.raises(InvalidSeal):
        open_envelope(enveloped, recipient("d"))
    stolen = RecipientKey(recipient("a").certificate, rsa_key("d"))
    with pytest.raises(InvalidSeal):
        open_envelope(enveloped, stolen)


@pytest.mark.parametrize("length", [0, 127, 128, 255, 256, 70_000])
def test_padding_is_told_from_content(length: int) -> None:
    value = encode(rfc5652.MessageDigest(b"\0" * length))
    assert without_padding(value) == value
    assert without_padding(value + b"\0") == value
    for wrong in (value + b"\0\0", value + b"1", value[:1], b"\x30\x80\0\0"):
        with pytest.raises(InvalidSeal):
            without_padding(wrong)


# Signatures


def rsa_signer() -> Signer:
    return Signer(certificate_of(rsa_key("signer"), "signer"), rsa_key("signer"))


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_signatures_verify(kind: str) -> None:
    signer = site_signer() if kind == "ec" else rsa_signer()
    assert verify_statement(STATEMENT, signer.sign_statement(STATEMENT)) == (
        signer.certificate
    )
    bare = signer.sign_content(STATEMENT)
    verify_content(STATEMENT, bare + b"\0" * (len(bare) % 2), signer.certificate)


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_any_changed_octet_of_a_signature_is_noticed(kind: str) -> None:
    signer = site_signer() if kind == "ec" else rsa_signer()
    signature = signer.sign_statement(STATEMENT)
    verified = 0
    for at in range(len(signature)):
        altered = bytearray(signature)
        altered[at] ^= 1
        try:
            found = verify_statement(STATEMENT, bytes(altered))
        except InvalidSeal:
            continue
        # The enclosed certificate signs itself, which is not looked at: but then
        # it is another certificate, that nobody trusts.
        assert found != signer.certificate, at
        verified += 1
    assert verified < len(signature) / 2
    for other in (b"", STATEMENT[:-1], STATEMENT + b"\0"):
        with pytest.raises(InvalidSeal):
            verify_statement(other, signature)


def with_attributes(change: Any) -> bytes:
    """A signature after ``change(SignedData)``, encoded again."""
    outer, _ = decode(
        site_signer().sign_statement(STATEMENT), asn1Spec=rfc5652.ContentInfo()
    )
    signed, _ = decode(outer["content"], asn1Spec=rfc5652.SignedData())
    change(signed)
    outer["content"] = encode(signed)
    return bytes(encode(outer))


def _another_signer(signed: Any) -> None:
    signed["signerInfos"].append(signed["signerInfos"][0])


def _no_certificate(signed: Any) -> None:
    signed["certificates"].clear()


def _no_digest(signed: Any) -> None:
    kept = signed["signerInfos"][0]["signedAttrs"][0]
    signed["signerInfos"][0]["signedAttrs"].clear()
    signed["signerInfos"][0]["signedAttrs"].append(kept)


def test_other_forms_of_signatures_are_refused() -> None:
    assert verify_statement(STATEMENT, with_attributes(lambda _: None))
    for change in (_another_signer, _no_certificate, _no_digest):
        with pytest.raises(InvalidSeal):
            verify_statement(STATEMENT, with_attributes(change))


@pytest.mark.parametrize(
    "options",
    [
        [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.NoAttributes],
        [pkcs7.PKCS7Options.DetachedSignature],  # with capabilities
        [pkcs7.PKCS7Options.NoCapabilities],  # with the content
    ],
)
def test_signatures_made_otherwise_are_refused(
    options: list[pkcs7.PKCS7Options],
) -> None:
    signer = site_signer()
    signature = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(STATEMENT)
        .add_signer(signer.certificate, signer._key, hashes.SHA256())
        .sign(Encoding.DER, [pkcs7.PKCS7Options.Binary, *options])
    )
    with pytest.raises(InvalidSeal):
        verify_statement(STATEMENT, signature)


def test_a_signature_over_content_is_none_over_a_statement() -> None:
    bare = site_signer().sign_content(STATEMENT)
    with pytest.raises(InvalidSeal):
        verify_content(STATEMENT + b"!", bare, site_signer().certificate)
    with pytest.raises(InvalidSeal):
        verify_content(STATEMENT, bare, site_signer("other").certificate)
    with pytest.raises(InvalidSeal):
        verify_content(STATEMENT, bare, rsa_signer().certificate)


# The site's signing key


def kept_in(folder: Path) -> SecretStore:
    return SecretStore(folder, LocalMasterKey(b"m" * 32))


def test_the_signer_is_made_once_and_sealed(tmp_path: Path) -> None:
    secrets = kept_in(tmp_path / "secrets")
    first = load_signer(secrets)
    assert load_signer(secrets).certificate == first.certificate
    (path,) = (tmp_path / "secrets").iterdir()
    assert path.name == "signer.pem.sealed"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" not in path.read_bytes()
    assert first.certificate.not_valid_after_utc.year == 9999


def test_all_who_start_at_once_get_one_signer(tmp_path: Path) -> None:
    found, start = [], threading.Barrier(6)

    def load() -> None:
        start.wait()
        found.append(fingerprint(load_signer(kept_in(tmp_path)).certificate))

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_site_may_bring_its_own_signing_key(tmp_path: Path) -> None:
    own = rsa_signer()
    path = tmp_path / "signer.pem"
    path.touch(mode=0o600)
    path.write_bytes(key_pem(rsa_key("signer")) + pem(own.certificate))
    assert load_signer(kept_in(tmp_path)).certificate == own.certificate
    assert not path.exists()  # it is sealed now
    assert load_signer(kept_in(tmp_path)).certificate == own.certificate


def test_signing_keys_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "signer.pem"
    path.touch(mode=0o600)
    for octets in (
        b"",
        pem(recipient("a").certificate),
        key_pem(rsa_key("a")),
        key_pem(rsa_key("a"), PASSPHRASE) + pem(recipient("a").certificate),
        key_pem(rsa_key("b")) + pem(recipient("a").certificate),
    ):
        path.write_bytes(octets)
        with pytest.raises(ConfigurationError, match="put the right file back"):
            load_signer(kept_in(tmp_path))
        assert path.read_bytes() == octets
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_signer(kept_in(tmp_path))
    with pytest.raises(ConfigurationError, match="give this user a folder"):
        load_signer(kept_in(path / "below"))


# Commands


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(build_app(), [str(each) for each in arguments], env=env)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A protected file with keys for anna and ben, their keys, and the signer's."""
    written(tmp_path / "sent.dcm", with_key("anna", "ben"))
    for name in ("anna", "ben", "carl"):
        own = recipient(name)
        written(tmp_path / f"{name}.pem", key_pem(own.private_key))
        written(tmp_path / f"{name}.crt", pem(own.certificate))
    for name in ("site", "other"):
        written(tmp_path / f"{name}.crt", pem(site_signer(name).certificate))
    return tmp_path


def test_recovery_without_a_vault(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(files / "no-site"))
    done = run(
        *("recover", files / "sent.dcm", "-o", files / "back"),
        *("--key", files / "anna.pem", "--certificate", files / "anna.crt"),
        *("--signer", files / "site.crt"),
    )
    assert done.exit_code == 0, done.output
    back = files / "back" / "MR_small.dcm"
    assert back.read_bytes() == corpus_file("MR_small.dcm").read_bytes()
    assert not (files / "no-site").exists()
    assert "signed by" not in done.stderr


def test_the_signer_is_told_if_none_was_named(files: Path) -> None:
    done = run(
        *("recover", files / "sent.dcm", "-o", files / "back", "--json"),
        *("--key", files / "ben.pem", "--certificate", files / "ben.crt"),
    )
    assert done.exit_code == 0, done.output
    assert fingerprint(site_signer().certificate) in done.stderr
    assert json.loads(done.stdout)[0]["status"] == "recovered"


@pytest.mark.parametrize(("name", "signer"), [("carl", "site"), ("anna", "other")])
def test_what_does_not_open_is_not_written(files: Path, name: str, signer: str) -> None:
    done = run(
        *("recover", files / "sent.dcm", "-o", files / "back", "--json"),
        *("--key", files / f"{name}.pem", "--certificate", files / f"{name}.crt"),
        *("--signer", files / f"{signer}.crt"),
    )
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["reason"] == "InvalidSeal"
    assert not (files / "back").exists()


def test_files_without_a_key_are_told(files: Path) -> None:
    plain = written(files / "plain.dcm", made().part10)
    done = run(
        *("recover", plain, "-o", files / "back", "--json"),
        *("--key", files / "anna.pem", "--certificate", files / "anna.crt"),
    )
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["reason"] == "KeyNotEnclosed"


def test_the_passphrase_comes_from_the_environment(files: Path) -> None:
    own = recipient("anna")
    locked = key_pem(own.private_key, PASSPHRASE) + pem(own.certificate)
    written(files / "locked.pem", locked)
    command = (
        *("recover", files / "sent.dcm", "-o", files / "back"),
        *("--key", files / "locked.pem"),
    )
    named = (*command, "--key-passphrase-env", "THEIRS")
    for arguments, env, words in (
        (command, {}, "--key-passphrase-env"),
        (named, {"THEIRS": ""}, "THEIRS is not set"),
        (named, {"THEIRS": "wrong"}, "does not open with this passphrase"),
    ):
        refused = run(*arguments, env=env)
        assert isinstance(refused.exception, PassphraseMissing)
        assert words in str(refused.exception)
        assert "wrong" not in str(refused.exception)
    done = run(*named, env={"THEIRS": PASSPHRASE.decode()})
    assert done.exit_code == 0, done.output
    assert PASSPHRASE.decode() not in done.output


def test_the_passphrase_is_asked_for_on_a_terminal(files: Path) -> None:
    own = recipient("anna")
    locked = key_pem(own.private_key, PASSPHRASE) + pem(own.certificate)
    written(files / "locked.pem", locked)
    terminal, end = os.openpty()
    command = [sys.executable, "-m", "gateway.cli.main", "recover", "sent.dcm"]
    with subprocess.Popen(
        [*command, "-o", "back", "--key", "locked.pem"],
        cwd=files,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # no terminal but this one
    ) as done:
        assert done.stderr is not None
        asked = b""
        while not asked.endswith(b": ") and (octet := done.stderr.read(1)):
            asked += octet
        os.write(terminal, PASSPHRASE + b"\n")
        output, errors = done.communicate(timeout=60)
    os.close(terminal)
    os.close(end)
    assert asked == b"Passphrase of locked.pem: "
    assert done.returncode == 0, errors
    assert PASSPHRASE not in output + errors
    assert (files / "back" / "MR_small.dcm").is_file()


@pytest.mark.parametrize(
    "options",
    [
        ("--site", "here", "--key", "a.pem"),
        ("--certificate", "a.pem"),
        ("--signer", "a.pem"),
        ("--key-passphrase-env", "NAME"),
    ],
)
def test_options_that_contradict_each_other(
    files: Path, options: tuple[str, ...]
) -> None:
    done = run("recover", files / "sent.dcm", "-o", files / "back", *options)
    assert done.exit_code == 2
    assert "--key" in done.stderr


def test_the_certificate_of_the_site_is_handed_out(tmp_path: Path) -> None:
    shown = run("keys", "signer", "--site", tmp_path)
    secrets = tmp_path / "secrets"
    keys = FileMasterKey(secrets / "master.key")
    own = load_signer(SecretStore(secrets, keys)).certificate
    assert shown.stdout.encode() == pem(own)
    assert fingerprint(own) in shown.stderr
    path = tmp_path / "site.crt"
    done = run("keys", "signer", "--site", tmp_path, "-o", path, "--json")
    assert json.loads(done.stdout)["sha256"] == fingerprint(own)
    assert path.read_bytes() == pem(own)
    with pytest.raises(ValueError, match="PEM"):
        load_pem_private_key(path.read_bytes(), None)
    assert run("keys", "signer", "--site", tmp_path, "-o", path).exit_code == 2
    assert run("keys", "signer", "--site", tmp_path / "typo").exit_code == 2
    assert not (tmp_path / "typo").exists()


def test_check_config_warns_of_expiry(site: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    soon = certificate_of(rsa_key("anna"), end=now + 9 * DAY)
    written(site.parent / "certificates" / "anna.pem", pem(soon))
    done = run("check-config", "--config", site)
    assert done.exit_code == 0, done.output
    assert "good: " in done.stdout
    assert "warning: recipient" in done.stderr
    assert "anna.pem" in done.stderr
    assert "ben.pem" not in done.stderr
