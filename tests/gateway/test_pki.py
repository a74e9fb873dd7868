"""The site's authority: what it issues, and that OpenSSL and a gateway take it."""

from __future__ import annotations

import json
import os
import ssl
import stat
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
    pkcs12,
)
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from typer.testing import CliRunner, Result

from config.load import load_site
from gateway.cli.main import build_app
from gateway.errors import AuthorityRefused, GatewayError, PassphraseMissing
from gateway.tls.authority import SiteAuthority, Wanted
from gateway.tls.certificates import sha256_of, shown
from gateway.tls.issuing import Issuer, new_key
from tests.gateway.scp import gateway

DAYS = 30
SECRET = "correct horse"


class Today:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def today() -> Today:
    return Today()


@pytest.fixture
def authority(tmp_path: Path, today: Today) -> SiteAuthority:
    made = SiteAuthority(tmp_path / "pki", today)
    made.create("Hospital", "ecdsa", None, 3650)
    return made


@pytest.fixture
def issuer(authority: SiteAuthority) -> Issuer:
    return authority.unlock(None)


def openssl(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def verified(authority: SiteAuthority, certificate: Path, purpose: str) -> str:
    trust = ["-CAfile", authority.certificate, "-CRLfile", authority.revocation_list]
    strict = ["-x509_strict", "-crl_check_all", "-check_ss_sig", "-purpose", purpose]
    return openssl("verify", *strict, *trust, certificate)


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_openssl_takes_what_is_issued(tmp_path: Path, kind: str) -> None:
    authority = SiteAuthority(tmp_path / "pki")
    authority.create("Hospital", kind, None, 3650)  # type: ignore[arg-type]
    wanted = Wanted.of("ct1", ["CT1.hospital"], ["192.0.2.7", "2001:db8::7"], ["CT1"])

    issued = authority.issue(
        authority.unlock(None),
        wanted,
        kind,  # type: ignore[arg-type]
        DAYS,
    )

    for purpose in ("sslserver", "sslclient"):
        assert verified(authority, issued.certificate, purpose).endswith(": OK\n")
    text = openssl("x509", "-in", issued.certificate, "-noout", "-text")
    assert "DNS:ct1.hospital, IP Address:192.0.2.7, IP Address:2001:DB8" in text
    assert ("id-ecPublicKey" if kind == "ecdsa" else "(3072 bit)") in text
    assert issued.key is not None
    assert stat.S_IMODE(issued.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(authority.key.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "pki").stat().st_mode) == 0o700
    assert not openssl("pkey", "-in", issued.key, "-noout", "-check").count("error")


def test_certificates_say_where_the_list_is_published(tmp_path: Path) -> None:
    authority = SiteAuthority(tmp_path / "pki")
    url = "http://pki.hospital/crl.pem"
    with pytest.raises(AuthorityRefused, match="no http"):
        authority.create("Hospital", "ecdsa", None, 3650, "file:///etc/passwd")
    authority.create("Hospital", "ecdsa", None, 3650, url)

    issued = authority.issue(authority.unlock(None), Wanted.of("x"), "ecdsa", DAYS)

    text = openssl("x509", "-in", issued.certificate, "-noout", "-text")
    assert f"URI:{url}" in text


def test_it_cannot_make_authorities_below_it(
    authority: SiteAuthority, issuer: Issuer
) -> None:
    issued = authority.issue(issuer, Wanted.of("ct1"), "ecdsa", DAYS)
    own = authority.unlock(None).certificate.extensions
    made = x509.load_pem_x509_certificate(issued.certificate.read_bytes()).extensions

    assert own.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert not made.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not made.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_revoked_is_revoked_for_openssl_too(
    authority: SiteAuthority, issuer: Issuer
) -> None:
    good = authority.issue(issuer, Wanted.of("good"), "ecdsa", DAYS)
    bad = authority.issue(issuer, Wanted.of("bad"), "ecdsa", DAYS)

    (entry,) = authority.revoke(issuer, "bad")

    assert entry.name == "bad"
    assert "certificate revoked" in verified(authority, bad.certificate, "sslclient")
    assert verified(authority, good.certificate, "sslclient").endswith(": OK\n")
    with pytest.raises(AuthorityRefused, match="no certificate of 'bad' can be"):
        authority.revoke(issuer, "bad")


@pytest.mark.parametrize(
    "written", [str, str.lower, lambda s: "0" + s, lambda s: "0x" + s]
)
def test_one_certificate_is_revoked_by_its_serial(
    authority: SiteAuthority, issuer: Issuer, written: Callable[[str], str]
) -> None:
    first = authority.issue(issuer, Wanted.of("ct1"), "ecdsa", DAYS)
    old = first.certificate.read_bytes()
    second = authority.renew(issuer, "ct1", DAYS)

    authority.revoke(issuer, written(first.entry.serial))

    assert verified(authority, second.certificate, "sslclient").endswith(": OK\n")
    second.certificate.write_bytes(old)
    assert "revoked" in verified(authority, second.certificate, "sslclient")


def test_lists_are_numbered_and_end(
    authority: SiteAuthority, issuer: Issuer, today: Today
) -> None:
    first = numbered(authority)
    authority.renew_list(issuer, 10)
    second = numbered(authority)

    assert second > first
    listed = x509.load_pem_x509_crl(authority.revocation_list.read_bytes())
    assert listed.next_update_utc is not None
    assert listed.next_update_utc - today.now < timedelta(days=10)
    authority.issue(issuer, Wanted.of("x"), "ecdsa", DAYS)
    authority.revoke(issuer, "x")  # keeps the time a list is good for
    listed = x509.load_pem_x509_crl(authority.revocation_list.read_bytes())
    assert listed.next_update_utc is not None
    assert listed.next_update_utc - today.now < timedelta(days=10)


def numbered(authority: SiteAuthority) -> int:
    listed = x509.load_pem_x509_crl(authority.revocation_list.read_bytes())
    return listed.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_a_renewed_certificate_has_a_new_key_and_the_same_names(
    authority: SiteAuthority, issuer: Issuer
) -> None:
    wanted = Wanted.of("ct1", ["ct1.hospital"], ["192.0.2.7"], ["CT1"])
    first = authority.issue(issuer, wanted, "ecdsa", DAYS)
    before = x509.load_pem_x509_certificate(first.certificate.read_bytes())

    second = authority.renew(issuer, "ct1", DAYS)
    after = x509.load_pem_x509_certificate(second.certificate.read_bytes())

    assert after.public_key() != before.public_key()
    assert second.key is not None
    key = load_pem_private_key(second.key.read_bytes(), None)
    assert key.public_key() == after.public_key()
    names = x509.SubjectAlternativeName
    assert (
        after.extensions.get_extension_for_class(names).value
        == before.extensions.get_extension_for_class(names).value
    )
    states = [e.state(datetime.now(UTC)) for e in authority.ledger().of("ct1")]
    assert states == ["good", "good"]


def request_of(tmp_path: Path, *options: str) -> bytes:
    key, request = tmp_path / "device.key", tmp_path / "device.csr"
    openssl("genpkey", *options, "-out", key)
    openssl(
        *("req", "-new", "-key", key, "-out", request, "-subj", "/CN=ca.hospital"),
        *("-addext", "subjectAltName=DNS:gateway.hospital"),
    )
    return request.read_bytes()


def test_only_the_key_of_a_request_counts(
    tmp_path: Path, authority: SiteAuthority, issuer: Issuer
) -> None:
    """A device cannot name itself the gateway."""
    request = request_of(
        tmp_path, "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"
    )

    wanted = Wanted.of("us1", ["us1.hospital"])
    issued = authority.sign(issuer, wanted, request, DAYS)

    text = openssl("x509", "-in", issued.certificate, "-noout", "-text")
    assert "DNS:us1.hospital" in text
    assert "gateway.hospital" not in text
    assert "ca.hospital" not in text
    assert issued.key is None
    assert verified(authority, issued.certificate, "sslclient").endswith(": OK\n")
    again = authority.renew(issuer, "us1", DAYS)
    assert again.key is None
    keys = [
        openssl("x509", "-in", one, "-noout", "-pubkey")
        for one in (issued.certificate, again.certificate)
    ]
    assert keys[0] == keys[1]


def test_bad_requests_are_refused(
    tmp_path: Path, authority: SiteAuthority, issuer: Issuer
) -> None:
    weak = request_of(tmp_path, "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")
    for request, why in ((weak, "too weak"), (b"no request", "no certificate request")):
        with pytest.raises(AuthorityRefused, match=why):
            authority.sign(issuer, Wanted.of("us1"), request, DAYS)
    assert authority.ledger().entries == ()


def test_a_request_for_anothers_key_is_refused(
    authority: SiteAuthority, issuer: Issuer
) -> None:
    """Whoever does not have the key gets no certificate for it."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    request = builder.sign(new_key("ecdsa"), hashes.SHA256())
    forged = bytearray(request.public_bytes(Encoding.DER))
    forged[-1] ^= 1  # of the signature

    with pytest.raises(AuthorityRefused, match="not signed with the key"):
        authority.sign(
            issuer,
            Wanted.of("us1"),
            x509.load_der_x509_csr(bytes(forged)).public_bytes(Encoding.PEM),
            DAYS,
        )


def test_two_nodes_cannot_have_one_name(
    authority: SiteAuthority, issuer: Issuer, today: Today
) -> None:
    authority.issue(issuer, Wanted.of("ct1", ["ct.hospital"]), "ecdsa", DAYS)

    for name, dns in (("ct2", ["ct.hospital"]), ("CT1", []), ("ct3", ["ct1"])):
        with pytest.raises(AuthorityRefused, match="is in the certificate of 'ct1'"):
            authority.issue(issuer, Wanted.of(name, dns), "ecdsa", DAYS)

    today.now += timedelta(days=DAYS + 1)
    authority.issue(issuer, Wanted.of("ct2", ["ct.hospital"]), "ecdsa", DAYS)


@pytest.mark.parametrize(
    ("name", "dns", "addresses", "why"),
    [
        ("../ca", [], [], "no name of a node"),
        ("", [], [], "no name of a node"),
        ("a/b", [], [], "no name of a node"),
        ("ok", ["*.hospital"], [], "no DNS name"),
        ("ok", ["under_score"], [], "no DNS name"),
        ("ok", [], ["300.1.1.1"], "give an IPv4 or IPv6 address"),
    ],
)
def test_what_somebody_types_is_checked(
    name: str, dns: list[str], addresses: list[str], why: str
) -> None:
    with pytest.raises(AuthorityRefused, match=why):
        Wanted.of(name, dns, addresses)


def test_a_passphrase_guards_the_authority(tmp_path: Path) -> None:
    authority = SiteAuthority(tmp_path / "pki")
    authority.create("Hospital", "ecdsa", SECRET.encode(), 3650)

    assert b"ENCRYPTED" in authority.key.read_bytes()
    for wrong in (None, b"wrong"):
        with pytest.raises(PassphraseMissing, match="--ca-passphrase"):
            authority.unlock(wrong)
    authority.unlock(SECRET.encode())


def test_a_folder_in_use_is_left_alone(authority: SiteAuthority) -> None:
    before = authority.key.read_bytes()
    with pytest.raises(AuthorityRefused, match="is not empty"):
        authority.create("Other", "ecdsa", None, 3650)
    assert authority.key.read_bytes() == before


def test_a_damaged_ledger_is_told(tmp_path: Path, authority: SiteAuthority) -> None:
    ledger = tmp_path / "pki" / "index.json"
    ledger.write_text("{}")
    with pytest.raises(AuthorityRefused, match="not the ledger"):
        authority.ledger()
    ledger.unlink()
    with pytest.raises(AuthorityRefused, match="pki init"):
        authority.ledger()


# the command line


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("MIAD_PKI", str(tmp_path / "pki"))
    monkeypatch.setenv("PASSPHRASE", SECRET)
    app = build_app()

    def invoke(*arguments: str | Path) -> Result:
        result = CliRunner().invoke(app, ["pki", *map(str, arguments)])
        if isinstance(result.exception, GatewayError):
            raise result.exception
        return result

    return invoke


def test_a_site_is_set_up_from_the_command_line(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    """What is printed is put into a site file, and a gateway starts with it."""
    secret = ("--ca-passphrase", "env:PASSPHRASE")
    made = run("init", tmp_path / "pki", "--name", "Hospital", *secret)
    assert made.exit_code == 0, made.output
    tls = run("issue", "gateway", "--gateway", "--dns", "gateway.test", *secret)
    node = run("issue", "ct1", "--dns", "ct1.test", "--ae", "CT1", *secret)
    head = f'data_directory = "{tmp_path / "data"}"\n'
    ports = "[receiver]\nport = 0\n[recovery]\nport = 0\n"
    path = tmp_path / "site.toml"
    path.write_text(head + tls.stdout + ports + node.stdout)
    checked = CliRunner().invoke(build_app(), ["check-config", "-c", str(path)])
    assert checked.exit_code == 0, checked.output + checked.stderr
    assert "warning" not in checked.stderr

    folder = tmp_path / "pki"
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "issued/ct1.pem", folder / "issued/ct1.key")
    with gateway(load_site(path, environ={})) as running:
        entity = AE("CT1")
        entity.add_requested_context(Verification)
        association = entity.associate(
            "127.0.0.1",
            running.running.ports.receiver or 0,
            ae_title="MIAD-GATEWAY",
            tls_args=(context, "gateway.test"),
        )
        assert association.is_established
        association.release()


def test_the_printed_fingerprint_is_the_certificates(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    run("init", tmp_path / "pki", "--name", "H")
    printed = run("issue", "ct1").stdout
    path = tmp_path / "pki" / "issued" / "ct1.pem"
    mark = shown(sha256_of(x509.load_pem_x509_certificate(path.read_bytes())))
    by_openssl = openssl("x509", "-in", path, "-noout", "-fingerprint", "-sha256")

    assert f'"{mark}"' in printed
    assert by_openssl.strip().split("=")[1] == mark.removeprefix("sha256:")


def test_pkcs12_opens_with_its_passphrase(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    run("init", tmp_path / "pki", "--name", "H")
    with pytest.raises(AuthorityRefused, match="PKCS#12 takes a passphrase"):
        run("issue", "ct1", "--p12")
    done = run("issue", "ct1", "--p12", "--passphrase", "env:PASSPHRASE")
    assert done.exit_code == 0, done.output

    bundle = (tmp_path / "pki/issued/ct1.p12").read_bytes()
    key, certificate, more = pkcs12.load_key_and_certificates(bundle, SECRET.encode())
    assert key is not None
    assert certificate is not None
    assert key.public_key() == certificate.public_key()
    assert len(more) == 1
    assert b"ENCRYPTED" in (tmp_path / "pki/issued/ct1.key").read_bytes()


def test_secrets_are_named_and_never_given(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    result = run("init", tmp_path / "pki", "--name", "H", "--ca-passphrase", SECRET)

    assert result.exit_code != 0
    assert SECRET not in str(result.exception) + result.output
    assert "a passphrase is named, not given" in str(result.exception)
    assert not (tmp_path / "pki").exists()


def test_a_passphrase_file_must_be_private(
    tmp_path: Path, run: Callable[..., Result]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o644)
    source = f"file:{secret}"
    result = run("init", tmp_path / "pki", "--name", "H", "--ca-passphrase", source)
    assert "chmod 600" in str(result.exception)

    secret.chmod(0o600)
    run("init", tmp_path / "pki", "--name", "H", "--ca-passphrase", source)
    SiteAuthority(tmp_path / "pki").unlock(SECRET.encode())


def test_list_shows_every_state(tmp_path: Path, run: Callable[..., Result]) -> None:
    run("init", tmp_path / "pki", "--name", "H")
    for name in ("a", "b"):
        run("issue", name)
    run("revoke", "b")
    assert run("crl", "--days", "10").exit_code == 0

    found = json.loads(run("list", "--json").stdout)
    assert [(one["name"], one["state"]) for one in found] == [
        ("a", "good"),
        ("b", "revoked"),
    ]
    assert "revoked" in run("list").stdout


def test_what_is_interrupted_leaves_the_ledger_whole(
    tmp_path: Path,
    authority: SiteAuthority,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No certificate leaves that the ledger does not know: it can be revoked."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        authority.issue(issuer, Wanted.of("ct1"), "ecdsa", DAYS)
    monkeypatch.undo()

    assert authority.ledger().entries == ()
    assert list((tmp_path / "pki" / "issued").iterdir()) == []
    assert not list((tmp_path / "pki").glob(".index*"))
