"""Recorded associations, changed at random: the receiver goes on whatever comes.

The changes are the same in every run; a failing one is named by its number.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.schema import Limits
from tests.gateway.raw_peer import (
    ACCEPT,
    RELEASED,
    command,
    context,
    echo,
    pdu,
    raw_peer,
    request,
    user_items,
    value,
)
from tests.gateway.scp import (
    CT_IMAGE,
    Gateway,
    encoded,
    gateway,
    send,
    site,
    small,
)
from tests.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = 2000
PEERS = 4
FIND = b"1.2.840.10008.5.1.4.1.2.2.1"
SYNTAX = b"1.2.840.10008.1.2.1"
INTERESTING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff", b"\0\0\0\0", b"\xff" * 4)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    generous = Limits(
        connections_per_second=1e6,
        connection_burst=100_000,
        request_seconds=2.0,
        pdu_seconds=2.0,
    )
    directory = tmp_path_factory.mktemp("fuzz")
    settings = site(directory).model_copy(update={"limits": generous})
    with gateway(settings) as listening:
        yield listening


def recorded(number: int) -> list[bytes]:
    """The PDUs of an association that echoes, stores and releases."""
    uid = f"1.2.3.{number}"
    data = bytes(encoded(small(uid)).data)
    store = command(
        0x0001,
        data_set=True,
        e0002=CT_IMAGE.encode() + b"\0" * (len(CT_IMAGE) % 2),
        e0700=b"\0\0",
        e1000=uid.encode() + b"\0" * (len(uid) % 2),
    )
    contexts = context(1) + context(3, CT_IMAGE.encode(), [SYNTAX])
    return [
        request(contexts=contexts, users=user_items()),
        echo(),
        pdu(4, value(3, 3, store)),
        pdu(4, value(3, 0, data[:40]) + value(3, 2, data[40:])),
        pdu(5, bytes(4)),
    ]


def changed(pdus: list[bytes], chance: random.Random) -> list[bytes]:
    """One to four changes: octets, lengths, order, ends."""
    made = [bytearray(one) for one in pdus]
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(made))
        octets = made[at]
        place = chance.randrange(len(octets) + 1)
        kind = chance.randrange(6)
        if kind == 0 and place < len(octets):
            octets[place] ^= 1 << chance.randrange(8)
        elif kind == 1:
            piece = chance.choice(INTERESTING)
            octets[place : place + len(piece)] = piece
        elif kind == 2:
            del octets[place : place + chance.randint(1, 20)]
        elif kind == 3:
            octets[place:place] = chance.randbytes(chance.randint(1, 20))
        elif kind == 4:
            made.insert(at, bytearray(octets))
        else:
            made[at], made[-1] = made[-1], made[at]
        made = [one for one in made if one] or [bytearray(b"\0")]
    return [bytes(one) for one in made]


def play(port: int, pdus: list[bytes]) -> None:
    """Send them, taking in what is answered, and leave."""
    with raw_peer(port) as peer, contextlib.suppress(OSError):
        peer.connection.settimeout(0.02)
        for one in pdus:
            peer.send(one)
            with contextlib.suppress(TimeoutError):
                peer.connection.recv(4096)
        peer.connection.shutdown(socket.SHUT_WR)


def test_the_recorded_association_is_a_good_one(running: Gateway) -> None:
    ask, ping, store, data, leave = recorded(1)
    with raw_peer(running.port) as peer:
        for sent, answered in ((ask, ACCEPT), (ping, 4), (store + data, 4)):
            peer.send(sent)
            assert peer.receive()[0] == answered
        peer.send(leave)
        assert peer.ends() == [RELEASED]
    assert running.index.instance("1.2.3.1") is not None


def test_an_object_that_is_left_before_its_answer_is_left_nowhere(
    running: Gateway,
) -> None:
    with raw_peer(running.port) as peer:
        first, *others = recorded(2)
        peer.send(first)
        assert peer.receive()[0] == ACCEPT
        peer.send(b"".join(others))
        peer.ends()
    wait_until(lambda: not left_over(), 30)
    assert unfinished(running) == []


def test_changed_associations_end_and_nothing_is_left_of_them(
    running: Gateway, capfd: pytest.CaptureFixture[str]
) -> None:
    def go(start: int) -> None:
        for number in range(start, ROUNDS, PEERS):
            chance = random.Random(number)
            play(running.port, changed(recorded(1000 + number), chance))

    peers = [threading.Thread(target=go, args=(n,)) for n in range(PEERS)]
    for peer in peers:
        peer.start()
    for peer in peers:
        peer.join()
    assert send(running.port, encoded(small("1.2.3.2"))) == [0]
    wait_until(lambda: not left_over(), 30)
    written = capfd.readouterr()
    assert "Traceback" not in written.out + written.err
    assert "request failed" not in written.out
    assert unfinished(running) == []


def unfinished(running: Gateway) -> list[Path]:
    return [*(running.site.data_directory / "store" / "incoming").rglob("*.*")]


def left_over() -> list[str]:
    return [t.name for t in threading.enumerate() if "AcceptorThread" in t.name]
