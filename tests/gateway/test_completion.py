from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from config.schema import Completion, Peer, Receiver, Site
from gateway.route.completion import idle_times


def test_each_source_has_its_own_silence() -> None:
    peers = (
        Peer(ae_title="SLOW", addresses=(ip_network("127.0.0.1"),), idle_seconds=300),
        Peer(ae_title="PLAIN", addresses=(ip_network("127.0.0.1"),)),
    )
    site = Site(
        data_directory=Path("d"),
        receiver=Receiver(peers=peers),
        completion=Completion(idle_seconds=20),
    )

    idle = idle_times(site)

    assert idle.seconds_of("SLOW") == 300
    assert idle.seconds_of("PLAIN") == 20
    assert idle.seconds_of("UNKNOWN") == 20
