"""What check-config tells of choices that are less safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.safety import insecurities
from config.schema import Site

FINGERPRINT = "sha256:" + "ab" * 32
SAFE: dict[str, Any] = {
    "tls": {
        "certificate": "gateway.pem",
        "key": "gateway.key",
        "authorities": ["ca.pem"],
        "revocation_lists": ["crl.pem"],
        "minimum_version": "1.3",
    },
    "nodes": [
        {
            "name": "ct",
            "ae_titles": ["CT"],
            "roles": ["store"],
            "certificates": [FINGERPRINT],
        }
    ],
    "grants": [
        {
            "name": "g",
            "nodes": ["ct"],
            "when": 'Modality == "CT"',
            "until": "2030-01-01T00:00:00Z",
        }
    ],
    "recovery": {"two_person_above": 100},
    "destinations": [
        {"name": "out", "ae_title": "OUT", "host": "out.test", "port": 2762}
    ],
    "vault": {"master_key": "credential:master"},
    "audit": {"collector": {"host": "audit.test"}},
    "protection": {"when_not_fooled": "hold"},
}


def site(tmp_path: Path, **changes: Any) -> Site:
    return Site.model_validate({"data_directory": tmp_path} | SAFE | changes)


def without_tls(**more: Any) -> dict[str, Any]:
    return {
        "name": "ct",
        "ae_titles": ["CT"],
        "roles": ["recover"],
        "plain": True,
    } | more


def to(**more: Any) -> dict[str, Any]:
    return {"name": "out", "ae_title": "OUT", "host": "out.test", "port": 104} | more


def test_a_site_with_every_protection_is_told_nothing(tmp_path: Path) -> None:
    assert insecurities(site(tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "severity", "said"),
    [
        ({"tls": None}, "warning", "no [tls] table"),
        ({"receiver": {"plain_port": 104}}, "warning", "without TLS on port 104"),
        (
            {"receiver": {"plain_port": 104, "host": "0.0.0.0"}},
            "warning",
            "without TLS on 0.0.0.0",
        ),
        (
            {"recovery": {"plain_port": 104, "two_person_above": 1}},
            "warning",
            "the recovery listens without TLS",
        ),
        (
            {"nodes": [without_tls(addresses=["192.0.2.0/28"])]},
            "warning",
            "and may have originals: anybody at its addresses",
        ),
        (
            {"nodes": [without_tls(addresses=["0.0.0.0/0"])]},
            "warning",
            "all of 0.0.0.0/0",
        ),
        ({"destinations": [to(plain=True)]}, "warning", "'out' without TLS"),
        ({"destinations": [to(originals=True)]}, "warning", "unprotected originals"),
        (
            {"destinations": [to(recipients=["r.pem"])]},
            "notice",
            "cannot be called back",
        ),
        (
            {"protection": {"when_not_fooled": "send"}},
            "notice",
            "are sent all the same",
        ),
        (
            {"grants": [{"name": "g", "nodes": ["ct"], "when": "Modality == 'CT'"}]},
            "notice",
            "'g' has no end",
        ),
        (
            {
                "grants": [
                    {
                        "name": "g",
                        "nodes": ["ct"],
                        "when": "true",
                        "until": "2030-01-01T00:00:00Z",
                    }
                ]
            },
            "notice",
            "every original",
        ),
        ({"recovery": {}}, "notice", "two_person_above"),
        (
            {"tls": SAFE["tls"] | {"revocation_lists": []}},
            "warning",
            "no revocation lists",
        ),
        ({"tls": SAFE["tls"] | {"minimum_version": "1.2"}}, "notice", "TLS 1.2"),
        ({"vault": {"master_key": "file:master.key"}}, "notice", "in a file"),
        ({"vault": {"master_key": "env:KEY"}}, "warning", "environment"),
        ({"audit": {}}, "notice", "audit trail is on this machine only"),
        (
            {
                "nodes": [
                    {
                        "name": "ct",
                        "ae_titles": ["CT"],
                        "roles": ["store"],
                        "certificate_names": ["ct.test"],
                    }
                ]
            },
            "notice",
            "pin its certificates",
        ),
    ],
)
def test_each_unsafe_choice_has_its_line(
    tmp_path: Path, changes: dict[str, Any], severity: str, said: str
) -> None:
    found = insecurities(site(tmp_path, **changes))
    assert [one.severity for one in found if said in one.text] == [severity]


def test_warnings_come_first(tmp_path: Path) -> None:
    found = insecurities(site(tmp_path, audit={}, tls=None))
    severities = [one.severity for one in found]
    assert severities == sorted(severities, reverse=True)
    assert set(severities) == {"warning", "notice"}
