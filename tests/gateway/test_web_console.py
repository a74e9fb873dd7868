"""The console: pages for each role, forms that only its own pages can send."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.store.clock import utc_now
from gateway.store.work import Work
from tests.gateway.pki_cases import NodeFiles, Pki
from tests.gateway.scp import encoded, example, small
from tests.gateway.web_cases import Web, person, serving, settings
from tests.gateway.worker_process import EXECUTOR

ROLES = ("viewer", "operator", "approver", "security")
PAGES = {
    "/": set(ROLES),
    "/held": set(ROLES),
    "/workers": set(ROLES),
    "/grants": {"approver", "security"},
    "/nodes": set(ROLES),
    "/settings": {"operator", "security"},
    "/audit": {"security"},
    "/health": set(ROLES),
    "/health/live": set(ROLES),
    "/health/ready": set(ROLES),
    "/console.css": set(ROLES),
}
GRANT = {
    "name": "all",
    "nodes": ["workstation"],
    "when": 'PatientName == "Secret^Name"',
}


@pytest.fixture(scope="module")
def staff(pki: Pki) -> dict[str, NodeFiles]:
    return {role: pki.authority.node(f"person-{role}") for role in ROLES}


@pytest.fixture
def web(tmp_path: Path, pki: Pki, staff: dict[str, NodeFiles]) -> Iterator[Web]:
    people = [person(role, files, role) for role, files in staff.items()]
    site = settings(tmp_path, pki, people=people, grants=[GRANT])
    with serving(site, pki) as running:
        yield running


def held_series(web: Web) -> int:
    """Hold a series as the worker does; returns its revision's row."""
    item = encoded(small("1.2.3.4", PatientName="Secret^Name"))
    instance = web.receive(item)
    revision = web.index.close_series("1.2.3.1", "MODALITY", utc_now())
    assert revision is not None
    web.index.hold_instance(instance.id, "undecodable", "Frame 1 cannot be decoded")
    web.index.set_revision(revision.id, "held", "undecodable")
    return revision.id


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page.text)
    assert found is not None
    return found[1]


def send(
    client: httpx.Client, path: str, form: dict[str, Any], **headers: str
) -> httpx.Response:
    base = str(client.base_url).rstrip("/")
    own = {"Origin": base, "Sec-Fetch-Site": "same-origin"}
    return client.post(path, data=form, headers={**own, **headers})


def test_pages_are_for_those_whose_roles_say_so(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    held_series(web)
    for role, files in staff.items():
        with web.client(files) as client:
            for path, allowed in PAGES.items():
                answer = client.get(path)
                assert answer.status_code == (200 if role in allowed else 403), path
                assert client.head(path).content == b""
            menu = client.get("/").text
        for path in ("/grants", "/settings", "/audit"):
            assert (f'href="{path}"' in menu) is (role in PAGES[path])
    refused = web.audited("login", "refused")
    assert {(line["user"], line["page"]) for line in refused} == {
        ("viewer", "/grants"),
        ("viewer", "/settings"),
        ("viewer", "/audit"),
        ("operator", "/grants"),
        ("operator", "/audit"),
        ("approver", "/settings"),
        ("approver", "/audit"),
    }


def test_no_page_names_a_patient(web: Web, staff: dict[str, NodeFiles]) -> None:
    held_series(web)
    web.receive(example("CT_small.dcm"))
    for role, files in staff.items():
        with web.client(files) as client:
            for path in PAGES:
                text = client.get(path).text
                assert "CompressedSamples" not in text
                # A condition of a grant can: only who writes grants sees it.
                assert ("Secret^Name" in text) is (
                    role == "security" and path == "/grants"
                ), (role, path)


def test_every_answer_is_hardened(web: Web, staff: dict[str, NodeFiles]) -> None:
    answers = []
    with web.client(staff["security"]) as client:
        answers += [client.get(path) for path in ("/", "/console.css", "/none")]
    with web.client(web.pki.archive) as client:
        answers += [client.get(p) for p in ("/protected/studies", "/protected/x", "/")]
    for answer in answers:
        headers = answer.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "script" not in headers["content-security-policy"]
        assert headers["strict-transport-security"] == "max-age=31536000"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
        assert not [name for name in headers if name.startswith("access-control")]
        assert "<script" not in answer.text


def test_a_held_series_is_released_with_a_reason(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    revision = held_series(web)
    with web.client(staff["operator"]) as client:
        page = client.get("/held")
        assert "undecodable" in page.text
        assert "1.2.3.1" in page.text
        form = {"token": token_of(page), "revision": revision}
        short = send(client, "/held/release", form | {"reason": " x "})
        assert (short.status_code, "reason" in short.text) == (400, True)
        form |= {"reason": "decoder was  updated"}
        done = send(client, "/held/release", form)
        assert (done.status_code, done.headers["location"]) == (
            303,
            "/held?done=released",
        )
        assert "export again" in client.get("/held?done=released").text
        assert send(client, "/held/release", form).status_code == 409
    found = web.index.revision(revision)
    assert found is not None
    assert (found.state, found.reason) == ("complete", "retry")
    (line,) = web.audited("release", "success")
    assert (line["user"], line["reason"], line["series"]) == (
        "operator",
        "decoder was updated",
        "1.2.3.1",
    )


def test_processes_and_what_is_under_way_are_shown(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    revision = held_series(web)
    web.index.set_revision(revision, "routed", priority=10)
    lost = replace(EXECUTOR, id="m/worker-3/1", machine="night-shift", slot=3)
    Work(web.index.database).register(replace(lost, state="lost"))
    with web.client(staff["viewer"]) as client:
        page = client.get("/workers").text
    for text in ("night-shift", "worker 3", "lost", "sending", "urgent"):
        assert text in page


def test_a_grant_is_revoked_with_a_reason(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    with web.client(staff["security"]) as client:
        form = {
            "token": token_of(client.get("/grants")),
            "grant": "all",
            "reason": "node was lost",
        }
        assert send(client, "/grants/revoke", form).status_code == 303
        again = send(client, "/grants/revoke", form)
        assert (again.status_code, "revoked before" in again.text) == (400, True)
        assert "node was lost" in client.get("/grants").text
    (line,) = web.audited("grant-revoke", "success")
    assert (line["who"], line["grant"], line["reason"]) == (
        "security",
        "all",
        "node was lost",
    )


def test_forms_are_for_those_whose_roles_say_so(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    revision = held_series(web)
    for role, files in staff.items():
        with web.client(files) as client:
            form = {"token": "0" * 64, "reason": "because", "revision": revision}
            for path, allowed in (
                ("/held/release", "operator"),
                ("/grants/revoke", "security"),
                ("/audit/verify", "security"),
            ):
                if role != allowed:
                    assert (
                        send(client, path, form | {"grant": "all"}).status_code == 403
                    )
    found = web.index.revision(revision)
    assert found is not None
    assert found.state == "held"
    assert not web.audited("grant-revoke", "success")


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Origin": "https://evil.example"}, None),
        ({"Origin": "null"}, None),
        ({"Sec-Fetch-Site": "cross-site"}, None),
        ({"Sec-Fetch-Site": "same-site"}, None),
        ({}, "0" * 64),
        ({}, ""),
        ({"Content-Type": "text/plain"}, None),
    ],
)
def test_a_form_of_another_site_changes_nothing(
    web: Web, staff: dict[str, NodeFiles], headers: dict[str, str], token: str | None
) -> None:
    revision = held_series(web)
    with web.client(staff["operator"]) as client:
        real = token_of(client.get("/held"))
        form = {
            "token": real if token is None else token,
            "revision": revision,
            "reason": "because",
        }
        status = send(client, "/held/release", form, **headers).status_code
    assert status in {403, 415}
    found = web.index.revision(revision)
    assert found is not None
    assert found.state == "held"
    refused = web.audited("login", "refused")
    assert bool(refused) is (status == 403)


def test_a_token_is_its_persons_own(web: Web, staff: dict[str, NodeFiles]) -> None:
    revision = held_series(web)
    with web.client(staff["security"]) as client:
        token = token_of(client.get("/audit"))
    with web.client(staff["operator"]) as client:
        form = {"token": token, "revision": revision, "reason": "because"}
        assert send(client, "/held/release", form).status_code == 403


def test_forms_are_short_and_read_only_as_forms(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    with web.client(staff["operator"]) as client:
        assert send(client, "/held/release", {"x": "y" * 70_000}).status_code == 413
        many = {str(n): "1" for n in range(20)}
        assert send(client, "/held/release", many).status_code == 400
        assert client.get("/held/release").status_code == 405
        assert client.put("/held/release").status_code == 405
        assert client.request("TRACE", "/").status_code == 405


def test_who_reads_the_trail_stands_in_it(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    with web.client(staff["security"]) as client:
        page = client.get("/audit")
        assert "audit-read" in page.text
        form = {"token": token_of(page)}
        done = send(client, "/audit/verify", form)
        assert done.headers["location"] == "/audit?done=verified"
    reads = web.audited("audit-read", "success")
    assert [line["command"] for line in reads] == ["show", "verify"]
    assert {line["user"] for line in reads} == {"security"}


def test_a_trail_that_was_changed_is_told(
    web: Web, staff: dict[str, NodeFiles]
) -> None:
    with web.client(staff["security"]) as client:
        form = {"token": token_of(client.get("/audit"))}
        text = web.audit.path.read_text()
        web.audit.path.write_text(text.replace('"roles"', '"Roles"', 1))
        broken = send(client, "/audit/verify", form)
        assert broken.status_code == 500
        assert "was changed" in broken.text


def test_what_is_not_well_is_told(web: Web, staff: dict[str, NodeFiles]) -> None:
    with web.client(staff["viewer"]) as client:
        assert client.get("/health/ready").json()["ready"] is True
        (web.store.root / "originals").rename(web.store.root / "away")
        web.store.root.rename(web.store.root.with_name("gone"))
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["store"]) == (
            503,
            "FileNotFoundError",
        )
        assert client.get("/health/live").status_code == 200
        assert "FileNotFoundError" in client.get("/health").text


def test_less_safe_settings_are_listed(
    tmp_path: Path, pki: Pki, staff: dict[str, NodeFiles]
) -> None:
    people = [person("operator", staff["operator"], "operator")]
    tls = pki.tls(revocation_lists=[])
    receiver = {"plain_port": 0}
    named = {
        "name": "ct",
        "ae_titles": ["CT"],
        "roles": ["store"],
        "certificate_names": ["ct.example"],
    }
    site = settings(
        tmp_path, pki, people=people, tls=tls, receiver=receiver, nodes=[named]
    )
    with serving(site, pki) as web, web.client(staff["operator"]) as client:
        text = client.get("/settings").text
        nodes = client.get("/nodes").text
    assert "receiver.plain_port" in text
    assert "tls.revocation_lists" in text
    assert "nodes[1].certificate_names" in text  # counted as check-config counts
    known_by = nodes[nodes.index("ct.example") :].split("</td>", 1)[0]
    assert "none" not in known_by
