"""What check-config says of TLS, and the reminders of a running gateway."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from structlog.testing import capture_logs

from config.schema import Site, Tls
from gateway.errors import ConfigurationError
from gateway.tls.check import check_tls
from gateway.tls.identity import TlsIdentity
from gateway.tls.issuing import key_pem
from gateway.tls.reminder import Reminder, tls_warnings
from tests.gateway.pki_cases import (
    DAY,
    HOST,
    Pki,
    now,
    period,
    pki_of,
    secrets_in,
    secure_node,
    secure_site,
)
from tests.waiting import wait_until

PASSPHRASE = b"correct horse"


def plain_site(directory: Path, **sections: Any) -> Site:
    return Site.model_validate({"data_directory": directory, **sections})


def check(site: Site) -> None:
    check_tls(site, secrets_in(site.data_directory), now())


def test_good_files_are_good(tmp_path: Path, pki: Pki) -> None:
    site = secure_site(tmp_path, pki)

    check(site)

    assert list(tls_warnings(site, now())) == []


def test_nothing_to_listen_on_is_told_with_both_remedies(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(plain_site(tmp_path))

    assert "nothing would listen" in str(caught.value)
    assert "miad-gateway pki init DIR --name SITE" in str(caught.value)
    assert "receiver.plain_port" in str(caught.value)


@pytest.mark.parametrize("name", ["receiver", "recovery"])
def test_a_plain_port_is_enough(tmp_path: Path, name: str) -> None:
    check(plain_site(tmp_path, **{name: {"plain_port": 104}}))


def test_destinations_with_tls_need_it_here_too(tmp_path: Path) -> None:
    place = {"ae_title": "PACS", "host": "pacs", "port": 2762}
    site = plain_site(
        tmp_path,
        receiver={"plain_port": 104},
        recovery={"destinations": [place]},
        destinations=[{**place, "name": "outside"}],
        web={"enabled": True},
    )

    with pytest.raises(ConfigurationError) as caught:
        check(site)

    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "destination 'outside' is sent to with TLS only" in lines[0]
    assert "move destination 'PACS' is sent to with TLS only" in lines[1]
    assert "the console needs one" in lines[2]


Spoil = Callable[[Pki], dict[str, Any]]


def as_it_is(spoil: Callable[[Pki], object]) -> Spoil:
    def spoiled(pki: Pki) -> dict[str, Any]:
        spoil(pki)
        return {}

    return spoiled


def gateway_again(pki: Pki, start: timedelta, end: timedelta) -> None:
    pki.authority.node("gateway", dns=[HOST], valid=period(start, end))


MISTAKES: list[tuple[Spoil, str]] = [
    (as_it_is(lambda p: p.gateway.certificate.unlink()), "cannot be read: No such"),
    (as_it_is(lambda p: p.gateway.certificate.write_text("x")), "openssl x509 -inform"),
    (as_it_is(lambda p: gateway_again(p, -9 * DAY, -DAY)), "ended"),
    (as_it_is(lambda p: gateway_again(p, DAY, 9 * DAY)), "check this clock"),
    (as_it_is(lambda p: p.gateway.key.unlink()), "private key cannot be read"),
    (as_it_is(lambda p: p.gateway.key.chmod(0o644)), "mode 0644: others may reach"),
    (as_it_is(lambda p: p.gateway.key.write_text("x")), "no private key in PEM form"),
    (lambda p: {"key": p.archive.key}, "is not that of"),
    (lambda p: {"authorities": [p.modality.certificate]}, "not an authority's"),
    (lambda p: {"authorities": [p.authority.folder / "no"]}, "no cannot be read"),
    (as_it_is(lambda p: p.authority.crl.write_text("x")), "openssl crl -inform"),
    (lambda p: {"revocation_lists": [p.other.crl]}, "no list in revocation_lists"),
    (
        lambda p: {"authorities": [p.authority.certificate, p.other.certificate]},
        "no list in revocation_lists is of CN=Other Authority",
    ),
    (lambda _: {"key_passphrase": "env:NOT_SET_ANYWHERE"}, "passphrase"),
]


@pytest.mark.parametrize(
    ("spoil", "told"), MISTAKES, ids=[told[:40] for _, told in MISTAKES]
)
def test_every_mistake_in_files_is_told_and_stops_the_start(
    tmp_path: Path, spoil: Spoil, told: str
) -> None:
    pki = pki_of(tmp_path / "pki")
    settings = pki.tls(**spoil(pki))

    with pytest.raises(ConfigurationError) as caught:
        check(secure_site(tmp_path, pki, tls=settings))
    assert told in str(caught.value)

    with pytest.raises(ConfigurationError):
        TlsIdentity(Tls.model_validate(settings), secrets_in(tmp_path))


def test_a_list_in_the_authoritys_name_but_not_of_its_key(tmp_path: Path) -> None:
    pki = pki_of(tmp_path / "pki")
    twin = pki_of(tmp_path / "twin")
    site = secure_site(
        tmp_path, pki, tls=pki.tls(revocation_lists=[twin.authority.crl])
    )
    with pytest.raises(ConfigurationError, match="is not signed by it"):
        check(site)


def test_a_revoked_certificate_cannot_be_pinned(tmp_path: Path, pki: Pki) -> None:
    pinned = secure_node("X", "store", certificates=[pki.revoked.certificate])
    with pytest.raises(ConfigurationError, match=r"node 'x'.* is revoked; take"):
        check(secure_site(tmp_path, pki, nodes=[pinned], grants=[]))


def encrypt(pki: Pki) -> None:
    key = load_pem_private_key(pki.gateway.key.read_bytes(), None)
    pki.gateway.key.write_bytes(key_pem(key, PASSPHRASE))  # type: ignore[arg-type]


def test_an_encrypted_key_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    pki = pki_of(tmp_path / "pki")
    encrypt(pki)
    secret = tmp_path / "passphrase"
    for octets, told in (
        (None, "say in key_passphrase where"),
        (b"wrong", "another passphrase"),
        (PASSPHRASE + b"\n", None),
    ):
        settings = pki.tls()
        if octets is not None:
            secret.write_bytes(octets)
            secret.chmod(0o600)
            settings |= {"key_passphrase": "file:passphrase"}
        site = secure_site(tmp_path, pki, tls=settings)
        if told is None:
            check(site)
            assert site.tls is not None
            TlsIdentity(site.tls, secrets_in(tmp_path))
        else:
            with pytest.raises(ConfigurationError, match=told) as caught:
                check(site)
            assert "wrong" not in str(caught.value)


def test_everything_that_ends_soon_is_warned_of(tmp_path: Path) -> None:
    pki = pki_of(tmp_path / "pki")
    soon = period(-DAY, 29 * DAY)
    node = pki.authority.node("soon", valid=soon)
    pki.authority.node("gateway", dns=[HOST], valid=soon)
    pki.authority.write_crl(soon)
    people = [{"name": "anna", "roles": ["viewer"], "certificates": [node.certificate]}]
    place = {
        "ae_title": "X",
        "host": "x",
        "port": 1,
        "certificates": [node.certificate],
    }
    site = secure_site(
        tmp_path,
        pki,
        nodes=[secure_node("X", "store", certificates=[node.certificate])],
        grants=[],
        people=people,
        destinations=[{**place, "name": "outside"}],
        recovery={"destinations": [place]},
        audit={"collector": {"host": "x", "certificates": [node.certificate]}},
    )

    warnings = list(tls_warnings(site, now()))

    assert len(warnings) == 7
    assert {w.split(" " + str(tmp_path))[0] for w in warnings} == {
        "certificate",
        "revocation list",
        "certificate of node 'x'",
        "certificate of person 'anna'",
        "certificate of destination 'outside'",
        "certificate of move destination 'X'",
        "certificate of the audit collector",
    }
    assert list(tls_warnings(site, now() - 2 * DAY)) == []
    ended = list(tls_warnings(site, now() + 30 * DAY))
    assert all(" ended " in warning for warning in ended)


def test_a_stale_list_is_warned_of_and_stops_no_start(tmp_path: Path) -> None:
    """It refuses all peers until a new one is there: without a restart."""
    pki = pki_of(tmp_path / "pki")
    pki.authority.write_crl(period(-9 * DAY, -DAY))
    site = secure_site(tmp_path, pki)

    check(site)

    (warning,) = tls_warnings(site, now())
    assert "revocation list" in warning
    assert "ended" in warning


def test_reminders_come_at_the_start_and_every_day(tmp_path: Path) -> None:
    pki = pki_of(tmp_path / "pki")
    pki.authority.write_crl(period(-DAY, DAY))
    site = secure_site(tmp_path, pki)
    with capture_logs() as logged:
        reminder = Reminder(site, every_seconds=0.05)
        reminder.start()
        wait_until(lambda: len(logged) >= 3)
        pki.authority.crl.unlink()
        wait_until(lambda: any("cannot be read" in e["warning"] for e in logged))
        reminder.stop()

    assert "revocation list" in logged[0]["warning"]
    assert all(entry["log_level"] == "warning" for entry in logged)
