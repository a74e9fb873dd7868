"""Objects taken in by the association's own thread, octet by octet from a peer."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.schema import Limits
from gateway.dicom.association import GatewayAssociation
from gateway.dicom.handlers import StorageService
from tests.gateway.raw_peer import (
    ABORT,
    RELEASED,
    RawPeer,
    command,
    context,
    echo,
    pdu,
    raw_peer,
    value,
)
from tests.gateway.scp import CT_IMAGE, IMPLICIT, Gateway, encoded, gateway, site, small
from tests.waiting import wait_until

CONTEXTS = context(1) + context(3, CT_IMAGE.encode())
C_STORE_RQ = 0x0001
RELEASE = pdu(5, bytes(4))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    limits = Limits.model_validate({"pdu_seconds": 1.0})
    settings = site(tmp_path_factory.mktemp("fast")).model_copy(
        update={"limits": limits}
    )
    with gateway(settings) as listening:
        yield listening


def store_command(uid: str) -> bytes:
    encoded_uid = uid.encode() + b"\0" * (len(uid) % 2)
    sop_class = CT_IMAGE.encode() + b"\0" * (len(CT_IMAGE) % 2)
    more = {"e0002": sop_class, "e1000": encoded_uid, "e0700": bytes(2)}
    return pdu(4, value(3, 3, command(C_STORE_RQ, data_set=True, **more)))


def data_of(uid: str) -> bytes:
    data = encoded(small(uid), IMPLICIT).data
    assert isinstance(data, bytes)
    return data


def store(uid: str) -> bytes:
    """A C-STORE request whose data set comes in two PDVs of one PDU."""
    data = data_of(uid)
    return store_command(uid) + pdu(4, value(3, 0, data[:40]) + value(3, 2, data[40:]))


def associated(peer: RawPeer) -> RawPeer:
    peer.associate(contexts=CONTEXTS)
    return peer


def status_of(body: bytes) -> int:
    """The status of a response (0000,0900)."""
    at = body.index(struct.pack("<HHL", 0, 0x0900, 2))
    (status,) = struct.unpack_from("<H", body, at + 8)
    return int(status)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if "AcceptorThread" in t.name]


def incoming(running: Gateway) -> list[Path]:
    return list((running.store.root / "incoming").iterdir())


def test_requests_that_come_at_once_are_answered_in_their_order(
    running: Gateway,
) -> None:
    with raw_peer(running.port) as peer:
        associated(peer)
        uids = [f"1.2.10.{number}" for number in range(4)]
        stores = [store(uid) for uid in uids]
        peer.send(stores[0] + stores[1] + echo() + stores[2] + stores[3] + RELEASE)
        kinds = [peer.receive() for _ in range(6)]
        assert [kind for kind, _ in kinds] == [4, 4, 4, 4, 4, RELEASED]
        assert [status_of(body) for _, body in kinds[:5]] == [0] * 5
        assert [body[4] for _, body in kinds[:5]] == [3, 3, 1, 3, 3]
        for uid in uids:
            row = running.index.instance(uid)
            assert row is not None
            assert running.store.read_data_set(row.path)[0] == data_of(uid)


def test_what_was_asked_before_a_release_is_answered_before_it(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(association: GatewayAssociation) -> None:
        """Look for objects only when requests and release have come."""
        wait_until(lambda: association.dul.peek_next_pdu() is not None)

    monkeypatch.setattr(GatewayAssociation, "_take_objects", late)
    with raw_peer(running.port) as peer:
        associated(peer)
        peer.send(echo() + store("1.2.11.1") + RELEASE)
        assert [peer.receive()[0] for _ in range(3)] == [4, 4, RELEASED]


def test_a_pdu_that_comes_octet_by_octet_is_whole(running: Gateway) -> None:
    with raw_peer(running.port) as peer:
        associated(peer)
        for octet in store("1.2.11"):
            peer.send(bytes([octet]))
        assert status_of(peer.receive()[1]) == 0
        peer.send(RELEASE)
        assert peer.ends() == [RELEASED]


@pytest.mark.parametrize(
    "rest",
    {
        "stalls": store("1.2.12")[:-3],
        "lengths contradict": store_command("1.2.12")
        + pdu(4, struct.pack(">LBB", 900, 3, 0) + bytes(40)),
        "unknown type": store_command("1.2.12") + pdu(9, bytes(4)),
        "above the maximum": store_command("1.2.12")
        + struct.pack(">BBL", 4, 0, 1 << 30),
        "a command in a data set": store_command("1.2.12") + store_command("1.2.12"),
        "an association request": store_command("1.2.12") + pdu(1, bytes(68)),
    }.items(),
    ids=lambda case: case[0],
)
def test_what_is_no_data_aborts_and_leaves_nothing(
    running: Gateway, rest: tuple[str, bytes]
) -> None:
    with raw_peer(running.port) as peer:
        associated(peer)
        peer.send(rest[1])
        assert peer.ends() == [ABORT]
    wait_until(lambda: not threads())
    assert incoming(running) == []
    assert running.index.instance("1.2.12") is None


def test_an_abort_within_a_data_set_leaves_nothing(running: Gateway) -> None:
    with raw_peer(running.port) as peer:
        associated(peer)
        peer.send(store("1.2.13")[:-40])
        wait_until(lambda: len(incoming(running)) == 1)
    wait_until(lambda: not threads())
    assert incoming(running) == []


def test_a_release_within_a_data_set_is_answered_and_leaves_nothing(
    running: Gateway,
) -> None:
    with raw_peer(running.port) as peer:
        associated(peer)
        peer.send(store_command("1.2.14") + RELEASE)
        assert peer.ends() == [RELEASED]
    wait_until(lambda: not threads())
    assert incoming(running) == []


def test_a_fault_while_an_object_is_kept_ends_its_association_only(
    running: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> str:
        raise RuntimeError("a fault of ours")

    with raw_peer(running.port) as other, raw_peer(running.port) as peer:
        associated(other)
        associated(peer)
        with monkeypatch.context() as patch:
            patch.setattr(StorageService, "_keep", fail)
            peer.send(store("1.2.15"))
            assert peer.ends() == [ABORT]
        other.send(store("1.2.15"))
        assert status_of(other.receive()[1]) == 0
    wait_until(lambda: not threads())


def test_a_stop_aborts_who_waits_with_a_data_set_begun(tmp_path: Path) -> None:
    with gateway(site(tmp_path)) as stopping:
        with raw_peer(stopping.port) as peer:
            associated(peer)
            peer.send(store_command("1.2.16"))
            wait_until(lambda: len(incoming(stopping)) == 1)
            stopping.running.stop(grace_seconds=0.0)
            assert peer.ends() == [ABORT]
        assert incoming(stopping) == []
