"""User identity negotiation (PS3.7 D.3.3.7): on top of mutual TLS, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from tests.gateway.pki_cases import Pki, calling, secure_site
from tests.gateway.scp import (
    EXPLICIT,
    MODALITY,
    WORKSTATION,
    Gateway,
    associated,
    encoded,
    gateway,
    send,
    site,
    small,
)
from tests.gateway.test_find import ask, identifier
from tests.waiting import wait_until

FIND = "1.2.840.10008.5.1.4.1.2.2.1"


def user(
    name: bytes = b"anna", *, kind: int = 1, second: bytes = b"", response: bool = True
) -> UserIdentityNegotiation:
    item = UserIdentityNegotiation()
    item.user_identity_type = kind
    item.primary_field = name
    item.secondary_field = second
    item.positive_response_requested = response
    return item


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Gateway]:
    """Originals only for requests in the name of Anna."""
    settings = secure_site(
        tmp_path_factory.mktemp("users"),
        pki,
        grants=[
            {
                "name": "anna",
                "nodes": ["workstation"],
                "when": "true",
                "users": ["anna", "Jürgen Groß"],
            }
        ],
    )
    with gateway(settings) as made:
        port = made.running.ports.receiver
        assert port is not None
        tls = calling(pki, pki.modality)
        assert send(port, encoded(small()), tls_args=tls) == [0x0000]
        yield made


@contextmanager
def asking(
    running: Gateway, pki: Pki, *items: UserIdentityNegotiation
) -> Iterator[Association]:
    port = running.running.ports.recovery
    assert port is not None
    with associated(
        port,
        [(FIND, EXPLICIT)],
        WORKSTATION,
        "MIAD-RECOVERY",
        tls_args=calling(pki, pki.workstation),
        ext_neg=list(items),
    ) as association:
        yield association


def studies(association: Association) -> int:
    matches, status = ask(association, identifier("STUDY", StudyInstanceUID=""))
    assert status == 0x0000
    return len(matches)


def answer(association: Association) -> bytes | None:
    found = association.acceptor.user_identity
    return None if found is None else found.server_response


@pytest.mark.parametrize(
    ("item", "found"),
    [
        (user(), 1),
        (user("Jürgen Groß".encode()), 1),
        (user(b"bert"), 0),
        (user(b"ANNA"), 0),
        (None, 0),
    ],
    ids=["named", "not-ascii", "another", "other-case", "none"],
)
def test_a_grant_may_be_for_some_users(
    running: Gateway, pki: Pki, item: UserIdentityNegotiation | None, found: int
) -> None:
    with asking(running, pki, *([] if item is None else [item])) as association:
        assert association.is_established
        assert studies(association) == found


@pytest.mark.parametrize("response", [True, False], ids=["asked-for", "not"])
def test_a_positive_response_is_given_when_asked_for(
    running: Gateway, pki: Pki, response: bool
) -> None:
    with asking(running, pki, user(response=response)) as association:
        assert association.is_established
        assert answer(association) == (b"" if response else None)


def refusal(running: Gateway, association: Association, before: int) -> str:
    assert association.is_rejected
    primitive = association.acceptor.primitive
    assert primitive is not None
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (
        1,
        1,
        1,
    )
    lines = running.audited
    wait_until(lambda: len(lines("association", "refused")) > before)
    (line,) = lines("association", "refused")[before:]
    return str(line["why"])


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (user(kind=2, second=b"secret"), "user-identity-type-not-supported"),
        (user(kind=3), "user-identity-type-not-supported"),
        (user(kind=4), "user-identity-type-not-supported"),
        (user(kind=5), "user-identity-type-not-supported"),
        (user(kind=2, second=b"secret", response=False), "user-identity-type-not-sup"),
        (user(b"\xff\xfe"), "user-identity-malformed"),
        (user(b"an\nna"), "user-identity-malformed"),
        (user(b" anna"), "user-identity-malformed"),
        (user(b"a" * 65), "user-identity-malformed"),
    ],
)
def test_what_cannot_be_checked_is_refused(
    running: Gateway, pki: Pki, item: UserIdentityNegotiation, why: str
) -> None:
    before = len(running.audited("association", "refused"))
    with asking(running, pki, item) as association:
        assert refusal(running, association, before).startswith(why)


def test_no_secret_of_a_user_is_written_down(running: Gateway, pki: Pki) -> None:
    with asking(running, pki, user(b"s3cret-name", kind=2, second=b"s3cret")):
        pass
    assert "s3cret" not in running.audit.path.read_text()


def test_a_user_without_tls_is_refused(tmp_path: Path) -> None:
    with gateway(site(tmp_path)) as made:
        options: dict[str, Any] = {"ext_neg": [user()]}
        with associated(
            made.recovery_port,
            [(FIND, EXPLICIT)],
            WORKSTATION,
            "MIAD-RECOVERY",
            **options,
        ) as association:
            assert refusal(made, association, 0) == "user-identity-without-tls"
        with associated(
            made.port, [(FIND, EXPLICIT)], MODALITY, "MIAD-GATEWAY", **options
        ) as association:
            assert refusal(made, association, 1) == "user-identity-without-tls"


def test_the_user_stands_in_the_trail(running: Gateway, pki: Pki) -> None:
    with asking(running, pki, user()) as association:
        studies(association)
    line = running.audited("query", "success")[-1]
    assert (line["node"], line["user"]) == ("workstation", "anna")
