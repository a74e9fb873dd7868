"""Who somebody is: certificates before names, names before nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.schema import Node, Person
from gateway.access.nodes import Nodes
from gateway.access.people import People
from gateway.errors import ConfigurationError, NotIdentified
from gateway.tls.certificates import PeerCertificate
from tests.gateway.pki_cases import Pki, pki_of

HERE = "127.0.0.1"


def node(name: str, *titles: str, **settings: object) -> Node:
    values = {"name": name, "ae_titles": titles or (name.upper(),), "roles": ("store",)}
    return Node.model_validate(values | settings)


def reason(nodes: Nodes, title: str, certificate: PeerCertificate | None) -> str:
    with pytest.raises(NotIdentified) as refused:
        nodes.calling(title, HERE, certificate)
    return refused.value.reason


def test_a_pinned_certificate_wins_over_a_name_in_it(pki: Pki) -> None:
    nodes = Nodes(
        [
            node("named", certificate_names=["modality.test"]),
            node("pinned", certificates=[pki.modality.fingerprint]),
        ]
    )
    assert nodes.calling("PINNED", HERE, pki.modality.peer).name == "pinned"
    assert nodes.showing(pki.modality.peer, HERE).name == "pinned"
    assert reason(nodes, "NAMED", pki.modality.peer) == "ae-title-not-of-certificate"


@pytest.mark.parametrize("name", ["modality.test", "MODALITY.Test", "modality.test."])
def test_names_match_in_any_case(pki: Pki, name: str) -> None:
    nodes = Nodes([node("named", certificate_names=[name])])
    assert nodes.calling("NAMED", HERE, pki.modality.peer).name == "named"


def test_a_wildcard_is_nobodys_name(tmp_path: Path) -> None:
    wild = pki_of(tmp_path).authority.node("wild", dns=["*.test", "*"])
    nodes = Nodes(
        [
            node("named", certificate_names=["modality.test"]),
            node("literal", certificate_names=["*.test"]),
        ]
    )
    for title in ("NAMED", "LITERAL"):
        assert reason(nodes, title, wild.peer) == "certificate-not-registered"


def test_an_ae_title_of_another_node_is_refused(pki: Pki) -> None:
    nodes = Nodes(
        [
            node("one", certificates=[pki.modality.certificate]),
            node("two", certificates=[pki.workstation.certificate]),
        ]
    )
    assert reason(nodes, "TWO", pki.modality.peer) == "ae-title-not-of-certificate"
    assert reason(nodes, "ONE", pki.stranger.peer) == "certificate-not-registered"
    assert reason(nodes, "ONE", None) == "tls-required"
    assert reason(nodes, "THREE", None) == "ae-title-unknown"


def test_a_node_may_have_several_titles(pki: Pki) -> None:
    nodes = Nodes([node("one", "A", "B", certificates=[pki.modality.certificate])])
    for title in ("A", "B"):
        assert nodes.calling(title, HERE, pki.modality.peer).name == "one"
    assert reason(nodes, "C", pki.modality.peer) == "ae-title-not-of-certificate"


def test_a_certificate_of_several_nodes_needs_an_ae_title(pki: Pki) -> None:
    names = ["modality.test"]
    nodes = Nodes(
        [node("a", certificate_names=names), node("b", certificate_names=names)]
    )
    assert nodes.calling("B", HERE, pki.modality.peer).name == "b"
    with pytest.raises(NotIdentified) as refused:
        nodes.showing(pki.modality.peer, HERE)
    assert refused.value.reason == "certificate-of-several-nodes"


def test_an_address_bounds_a_certificate(pki: Pki) -> None:
    pinned = {"certificates": [pki.modality.certificate], "addresses": ["10.0.0.0/8"]}
    nodes = Nodes([node("one", **pinned)])
    assert nodes.calling("ONE", "10.1.2.3", pki.modality.peer).name == "one"
    assert nodes.calling("ONE", "::ffff:10.1.2.3", pki.modality.peer).name == "one"
    for address in ("127.0.0.1", "fe80::1%eth0", "nonsense"):
        with pytest.raises(NotIdentified) as refused:
            nodes.calling("ONE", address, pki.modality.peer)
        assert refused.value.reason == "address-not-allowed"


def test_a_certificate_file_that_changed_is_read_again(tmp_path: Path) -> None:
    pki = pki_of(tmp_path)
    before = pki.modality.peer
    nodes = Nodes([node("one", certificates=[pki.modality.certificate])])
    assert nodes.calling("ONE", HERE, before).name == "one"
    renewed = pki.authority.node("modality", dns=["modality.test"])
    assert renewed.certificate == pki.modality.certificate
    assert nodes.calling("ONE", HERE, renewed.peer).name == "one"
    assert reason(nodes, "ONE", before) == "certificate-not-registered"
    shown = renewed.peer
    renewed.certificate.write_text("no certificate any more")
    assert reason(nodes, "ONE", shown) == "certificate-not-registered"
    renewed.certificate.unlink()
    assert reason(nodes, "ONE", shown) == "certificate-not-registered"


def test_a_certificate_file_has_to_be_there_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Nodes([node("one", certificates=[tmp_path / "none.pem"])])


def person(name: str, *certificates: object) -> Person:
    return Person.model_validate(
        {"name": name, "roles": ["approver"], "certificates": certificates}
    )


def test_people_are_known_by_certificate_only(pki: Pki) -> None:
    people = People(
        [
            person("anna", pki.modality.certificate),
            person("bert", pki.workstation.fingerprint),
            person("both", pki.archive.fingerprint),
            person("both2", pki.archive.fingerprint),
        ]
    )
    assert people.showing(pki.modality.peer).name == "anna"
    assert people.showing(pki.workstation.peer).name == "bert"
    for peer, why in (
        (pki.unknown.peer, "certificate-not-registered"),
        (pki.archive.peer, "certificate-of-several-people"),
    ):
        with pytest.raises(NotIdentified) as refused:
            people.showing(peer)
        assert refused.value.reason == why
