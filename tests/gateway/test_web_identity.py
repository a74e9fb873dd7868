"""Who comes in over HTTPS: every kind of wrong certificate, on every service."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.tls.certificates import shown
from tests.gateway.pki_cases import DAY, NodeFiles, Pki, period, pki_of
from tests.gateway.scp import encoded, small
from tests.gateway.web_cases import Web, node, person, serving, settings, stow
from tests.waiting import wait_until

STORED = encoded(small("1.2.3.4"))

# DICOMweb of all three kinds, and the console.
ASKED: dict[str, Callable[[httpx.Client], httpx.Response]] = {
    "qido": lambda c: c.get("/protected/studies"),
    "qido-originals": lambda c: c.get("/originals/studies"),
    "wado": lambda c: c.get("/protected/studies/1.2.3"),
    "wado-originals": lambda c: c.get("/originals/studies/1.2.3"),
    "stow": lambda c: stow(c, STORED),
    "console": lambda c: c.get("/"),
    "unknown": lambda c: c.get("/nothing/here"),
}


@pytest.fixture
def web(tmp_path: Path, pki: Pki, officer: NodeFiles) -> Iterator[Web]:
    """One for each test: the trail holds few refusals of an address whole."""
    people = [person("officer", officer, "security")]
    with serving(settings(tmp_path, pki, people=people), pki) as running:
        yield running


@pytest.fixture(scope="module")
def officer(pki: Pki) -> NodeFiles:
    return pki.authority.node("officer")


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("unknown", "unknown-authority"),
        ("expired", "certificate-expired"),
        ("revoked", "certificate-revoked"),
        (None, "no-certificate"),
    ],
)
def test_a_certificate_that_is_none_ends_the_handshake(
    web: Web, kind: str | None, why: str
) -> None:
    shown: NodeFiles | None = getattr(web.pki, kind) if kind else None
    for number, ask in enumerate(ASKED.values(), 1):
        with web.client(shown) as client, pytest.raises(httpx.TransportError) as told:
            ask(client)
        # The peer is told why: an alert, not a broken connection.
        assert "alert" in str(told.value).lower()
        wait_until(lambda n=number: len(web.audited("association", "refused")) == n)
    for line in web.audited("association", "refused"):
        found = (line["why"], line["service"], line["peer_address"])
        assert found == (why, "web", "127.0.0.1")


def test_a_certificate_of_nobody_is_refused(web: Web) -> None:
    for ask in ASKED.values():
        with web.client(web.pki.stranger) as client:
            assert ask(client).status_code == 403
    logins, calls = (
        web.audited(action, "refused") for action in ("login", "association")
    )
    assert (len(logins), len(calls)) == (2, 5)
    for line in logins + calls:
        assert line["why"] == "certificate-not-registered"
        assert line["certificate"] == shown(web.pki.stranger.peer.sha256)
    assert web.index.instance("1.2.3.4") is None


@pytest.mark.parametrize(
    ("who", "allowed"),
    [
        ("modality", {"stow"}),
        ("archive", {"qido", "wado"}),
        ("workstation", {"qido-originals", "wado-originals"}),
    ],
)
def test_a_node_may_what_its_roles_say_and_no_more(
    web: Web, who: str, allowed: set[str]
) -> None:
    shown: NodeFiles = getattr(web.pki, who)
    for asked, ask in ASKED.items():
        with web.client(shown) as client:
            refused = ask(client).status_code == 403
        assert refused is (asked not in allowed), asked


def test_a_person_is_no_node(web: Web, officer: NodeFiles) -> None:
    for asked, ask in ASKED.items():
        with web.client(officer) as client:
            status = ask(client).status_code
        assert status == {"console": 200, "unknown": 404}.get(asked, 403), asked
    refusals = web.audited("association", "refused")
    assert {line["why"] for line in refusals[-5:]} == {"not-a-node"}
    assert refusals[-1]["user"] == "officer"


def test_a_log_in_is_recorded_once_per_connection(web: Web, officer: NodeFiles) -> None:
    before = len(web.audited("login", "success"))
    for _ in range(2):
        with web.client(officer) as client:
            assert client.get("/").status_code == 200
            assert client.get("/").status_code == 200
    lines = web.audited("login", "success")[before:]
    assert [(line["user"], line["roles"]) for line in lines] == [
        ("officer", ["security"])
    ] * 2


def test_what_is_not_tls_is_refused(web: Web) -> None:
    before = len(web.audited("association", "refused"))
    port = web.running.port
    with socket.create_connection(("127.0.0.1", port), 10) as plain:
        plain.sendall(b"GET /protected/studies HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(100)
    wait_until(lambda: len(web.audited("association", "refused")) > before)
    assert web.audited("association", "refused")[before]["why"] == "not-tls"


def test_a_revocation_holds_on_a_connection_that_is_open(tmp_path: Path) -> None:
    own = pki_of(tmp_path / "pki")
    with serving(settings(tmp_path / "site", own), own) as web:
        with web.client(own.archive) as client:
            assert client.get("/protected/studies").status_code == 204
            own.authority.revoke(own.archive)
            wait_until(lambda: client.get("/protected/studies").status_code == 403)
        refusals = web.audited("association", "refused")
        assert refusals[-1]["why"] == "certificate-revoked"
        with web.client(own.archive) as client, pytest.raises(httpx.TransportError):
            client.get("/protected/studies")


def test_the_gateways_certificate_is_taken_up_without_a_restart(
    tmp_path: Path,
) -> None:
    own = pki_of(tmp_path / "pki")
    with serving(settings(tmp_path / "site", own), own) as web:
        before = _shown(web, own)
        own.authority.node("gateway", dns=["localhost"], addresses=["127.0.0.1"])
        wait_until(lambda: _shown(web, own) != before)
        assert _shown(web, own) == own.gateway.peer.sha256
        with web.client(own.archive) as client:
            assert client.get("/protected/studies").status_code == 204
        assert web.audited("tls", "success")


def test_a_certificate_that_ends_ends_the_access(tmp_path: Path) -> None:
    """On a connection that was made while it was still good."""
    own = pki_of(tmp_path / "pki")
    short = own.authority.node("short", valid=period(-DAY, DAY / 86400 * 4))
    nodes = [node("short", short, "read")]
    with serving(settings(tmp_path / "site", own, nodes=nodes), own) as web:
        with web.client(short) as client:
            assert client.get("/protected/studies").status_code == 204
            wait_until(lambda: client.get("/protected/studies").status_code == 403)
        refusals = web.audited("association", "refused")
        assert refusals[-1]["why"] == "certificate-expired"


def test_nobody_comes_in_unrecorded(tmp_path: Path, pki: Pki) -> None:
    """Where the trail cannot be written, nothing is answered."""
    officer = pki.authority.node("auditor")
    people = [person("auditor", officer, "security")]
    with serving(settings(tmp_path, pki, people=people), pki) as web:
        web.audit.path.write_text("not a line of a chain\n")
        with web.client(officer) as client:
            assert client.get("/").status_code == 503
        with web.client(pki.archive) as client:
            answer = client.get("/protected/studies")
        assert answer.status_code == 503
        assert "PatientName" not in answer.text


def _shown(web: Web, own: Pki) -> str:
    """Fingerprint of the certificate that the server shows now."""
    with web.socket(own.archive) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return hashlib.sha256(der).hexdigest()
