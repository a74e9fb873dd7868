"""Storage commitment with Orthanc: as a modality that asks, as a destination."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from tests.endtoend.peers import Orthanc, free_port, orthanc
from tests.gateway.exporting import Exports
from tests.gateway.scp import gateway, node, site
from tests.waiting import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.slow]

CT = "1.2.840.10008.5.1.4.1.1.2"


def example() -> bytes:
    path = get_testdata_file("CT_small.dcm", download=False)
    assert isinstance(path, str)
    return Path(path).read_bytes()


def upload(peer: Orthanc, part10: bytes) -> str:
    from urllib.request import Request, urlopen

    request = Request(f"{peer.url}/instances", data=part10, method="POST")
    with urlopen(request, timeout=60) as answer:
        answer.read()
    [identifier] = peer.get("/instances")
    return str(identifier)


def outcome(peer: Orthanc, path: str) -> dict[str, Any]:
    wait_until(lambda: peer.get(path)["Status"] != "Pending")
    found: dict[str, Any] = peer.get(path)
    return found


def test_orthanc_asks_for_what_it_sent_and_is_told(tmp_path: Path) -> None:
    port = free_port()
    place = {"ae_title": "ORTHANC", "host": "127.0.0.1", "port": 0, "plain": True}
    with orthanc(tmp_path / "orthanc", "ORTHANC", {}) as peer:
        place["port"] = peer.dicom_port
        nodes = [node("ORTHANC", "store", commitment=place)]
        settings = site(
            tmp_path / "site", nodes=nodes, grants=[], receiver={"plain_port": port}
        )
        with gateway(settings) as running:
            identifier = upload(peer, example())
            where = ["MIAD-GATEWAY", "127.0.0.1", port]
            peer.call("PUT", "/modalities/miad", where)
            sent = peer.call("POST", "/modalities/miad/store", [identifier])
            assert sent["InstancesCount"] == 1
            [instance] = running.index.instances_in_state("received")
            uid = instance.sop_instance_uid
            asked = peer.call(
                "POST",
                "/modalities/miad/storage-commitment",
                {"DicomInstances": [[CT, uid], [CT, "1.2.3.99"]]},
            )
            found = outcome(peer, asked["Path"])

    assert found["Status"] == "Failure"
    assert [one["SOPInstanceUID"] for one in found["Success"]] == [uid]
    [failed] = found["Failures"]
    assert failed["SOPInstanceUID"] == "1.2.3.99"
    assert failed["FailureReason"] == 0x0112


def test_orthanc_commits_to_what_it_was_sent(tmp_path: Path) -> None:
    port = free_port()
    nodes = [node("OUTSIDE", "commit")]
    where = {"miad": ["GATEWAY", "127.0.0.1", port]}
    with orthanc(tmp_path / "orthanc", "OUTSIDE", where) as peer:
        exports = Exports(tmp_path / "exports", peer.dicom_port, commitment=True)
        settings = site(
            tmp_path / "site",
            nodes=nodes,
            grants=[],
            receiver={"plain_port": port, "ae_title": "GATEWAY"},
            destinations=[exports.destination.model_dump()],
        )
        exports.owe("CT_small.dcm", "MR_small.dcm")
        with gateway(settings) as running:
            for server in running.running._servers:
                commitment = getattr(server.service, "_commitment", None)
                if commitment is not None:  # one index, as both processes have
                    object.__setattr__(commitment, "index", exports.index)
            assert exports.attempt() is False
            assert exports.commit(linger_seconds=0.0) is False
            wait_until(lambda: exports.states == ["committed", "committed"])
        exports.close()
