"""What senders say is read as they mean it, and hostile peers do what they say."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pynetdicom import AE, AllStoragePresentationContexts
from pynetdicom.pdu import A_ASSOCIATE_AC

from tests.endtoend.peers import free_port
from tests.faults import peers
from tests.faults.load import storescu, taken
from tests.faults.nodes import KeepingNode
from tests.faults.objects import Factory
from tests.gateway.raw_peer import ACCEPT, context, pdu, raw_peer, request

pytestmark = pytest.mark.peers

CT_IMAGE = b"1.2.840.10008.5.1.4.1.1.2"


def test_only_what_was_answered_with_success_counts(tmp_path: Path) -> None:
    items = Factory(tmp_path / "objects", "seed").series("protected", 3)
    refused = items[1].uid
    answer = {refused: 0xA700}
    node = KeepingNode(
        "MIAD-GATEWAY", tmp_path / "node", answer=lambda uid: answer.get(uid, 0)
    )
    with node:
        answers = storescu(items, node.port)
    assert set(answers) == {item.uid for item in items}
    assert set(taken(answers)) == {items[0].uid, items[2].uid}
    kept = {one.uid: one.sha256 for one in node.receptions()}
    assert kept == {i.uid: i.sha256 for i in items if i.uid != refused}
    assert storescu(items, node.port) == {}  # nobody listens


@pytest.mark.parametrize(
    "behaviour", [peers.resets, peers.hangs, peers.babbles], ids=lambda b: b.__name__
)
def test_a_hostile_peer_takes_associations(behaviour: peers.Behaviour) -> None:
    port = free_port()
    with peers.hostile(port, behaviour) as peer, raw_peer(port) as ours:
        ours.send(request(contexts=context(1) + context(3, CT_IMAGE)))
        kind, body = ours.receive()
        assert kind == ACCEPT
        answer = A_ASSOCIATE_AC()
        answer.decode(pdu(kind, body))
        results = [(c.context_id, c.result) for c in answer.presentation_context]
        assert results == [(1, 0), (3, 0)]
    assert peer.connections == 1


def test_a_hostile_peer_rejects() -> None:
    ae = AE()
    ae.requested_contexts = AllStoragePresentationContexts[:3]
    port = free_port()
    with peers.hostile(port, peers.rejects):
        assert ae.associate("127.0.0.1", port).is_rejected
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
