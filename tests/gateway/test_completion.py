from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

from config.schema import Completion, Node, Site
from gateway.route.completion import idle_times


def test_each_source_has_its_own_silence() -> None:
    slow = Node(
        name="slow",
        ae_titles=("SLOW", "SLOW2"),
        roles=("store",),
        certificate_names=("slow.example",),
        idle_seconds=300,
    )
    plain = Node(
        name="plain",
        ae_titles=("PLAIN",),
        roles=("store",),
        plain=True,
        addresses=(ip_network("127.0.0.1"),),
    )
    site = Site(
        data_directory=Path("d"),
        nodes=(slow, plain),
        completion=Completion(idle_seconds=20),
    )

    idle = idle_times(site)

    assert idle.seconds_of("SLOW") == 300
    assert idle.seconds_of("SLOW2") == 300
    assert idle.seconds_of("PLAIN") == 20
    assert idle.seconds_of("UNKNOWN") == 20
