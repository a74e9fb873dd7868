"""``miad-gateway serve`` with its web server: in by STOW-RS, out by WADO-RS."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread

from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of
from gateway.audit.log import AuditLog
from gateway.demo.site import GatewayProcess
from gateway.store.part10 import read_head
from gateway.tls.contexts import SUITES
from tests.gateway.outside import unused_port
from tests.gateway.pki_cases import HOST, NodeFiles, Pki, client_context, pki_of
from tests.gateway.scp import example
from tests.gateway.web_cases import ANY, datasets, file_of, parts_of, stow

pytestmark = [pytest.mark.slow, pytest.mark.peers]

SITE = """\
name = "test"
data_directory = "{folder}/data"

[receiver]
port = 0

[recovery]
port = 0

[web]
enabled = true
port = 0

[tls]
certificate = "{pki.gateway.certificate}"
key = "{pki.gateway.key}"
authorities = ["{pki.authority.certificate}"]
revocation_lists = ["{pki.authority.crl}"]

[[nodes]]
name = "modality"
ae_titles = ["MODALITY"]
roles = ["store"]
certificates = ["{pki.modality.certificate}"]

[[nodes]]
name = "workstation"
ae_titles = ["WORKSTATION"]
roles = ["recover"]
certificates = ["{pki.workstation.certificate}"]

[[nodes]]
name = "archive"
ae_titles = ["ARCHIVE"]
roles = ["read"]
certificate_names = ["archive.test"]

[[people]]
name = "officer"
roles = ["security", "operator"]
certificates = ["{pki.stranger.certificate}"]

[[grants]]
name = "all"
nodes = ["workstation"]
when = "true"

[completion]
idle_seconds = 1.0
poll_seconds = 0.2

[[destinations]]
name = "away"
ae_title = "AWAY"
host = "127.0.0.1"
port = {away}

[[routing.rules]]
name = "from-the-modality"
when = 'calling_ae == "MODALITY"'
destinations = ["away"]
protect = true

[protection]
params.delta.iterations = 2
params.search.budget = 16
"""


@dataclass
class Served:
    """A whole gateway as a child process."""

    process: GatewayProcess
    config: Path
    data: Path
    pki: Pki

    @property
    def port(self) -> int:
        return int(json.loads((self.data / "run" / "web.json").read_text())["web"])

    def client(self, node: NodeFiles) -> httpx.Client:
        return httpx.Client(
            base_url=f"https://localhost:{self.port}",
            verify=client_context(self.pki, node),
            trust_env=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    pki = pki_of(folder / "pki")
    config = folder / "site.toml"
    config.write_text(SITE.format(folder=folder, pki=pki, away=unused_port()))
    data = folder / "data"
    with GatewayProcess(config, folder / "gateway.log") as process:
        process.wait_until((data / "run" / "web.json").exists, 120)
        yield Served(process, config, data, pki)
    # Stopped cleanly: what listens takes its note away.
    assert not (data / "run" / "web.json").exists()
    actions = [
        (e["action"], e.get("process"))
        for e in AuditLog(data / "audit" / "audit.jsonl").entries()
    ]
    assert {("start", "web"), ("stop", "web")} <= set(actions)


def test_in_by_stow_marked_and_back_bit_for_bit(served: Served) -> None:
    item = example("CT_small.dcm")
    study = str(dcmread(BytesIO(file_of(item))).StudyInstanceUID)
    with served.client(served.pki.modality) as client:
        assert stow(client, item).status_code == 200
    with served.client(served.pki.archive) as client:
        served.process.wait_until(
            lambda: client.get("/protected/studies").status_code == 200, 240
        )
        (found,) = datasets(client.get("/protected/instances"))
        assert found.SOPInstanceUID != item.sop_instance_uid
        answer = client.get(
            f"/protected/studies/{found.StudyInstanceUID}", headers={"Accept": ANY}
        )
    (part,) = parts_of(answer)
    marked = dcmread(BytesIO(part))
    assert marked.SOPInstanceUID == found.SOPInstanceUID
    assert marked.BurnedInAnnotation == "YES"

    with served.client(served.pki.workstation) as client:
        answer = client.get(f"/originals/studies/{study}", headers={"Accept": ANY})
        (part,) = parts_of(answer)
        stream = BytesIO(part)
        read_head(stream)
        assert stream.read() == item.data
    with served.client(served.pki.stranger) as client:
        page = client.get("/").text
        assert "Overview" in page
        assert client.get("/health/ready").json()["ready"] is True
    site = load_site(served.config, environ={})
    index = open_index_of(site, open_keys_of(site))
    row = index.instance(item.sop_instance_uid)
    index.close()
    assert row is not None
    assert (row.calling_ae, row.state) == ("MODALITY", "protected")


def test_the_log_tells_nothing_of_a_patient(served: Served) -> None:
    with served.client(served.pki.archive) as client:
        client.get("/protected/studies", params={"PatientName": "Never^Logged"})
        client.get("/protected/studies", params={"Nothing": "Never^Logged"})
    with served.client(served.pki.modality) as client:
        client.get("/protected/studies", params={"PatientName": "Never^Logged"})
    for path in (
        served.config.with_name("gateway.log"),
        served.data / "audit" / "audit.jsonl",
    ):
        assert "Never^Logged" not in path.read_text()


def test_sslscan_finds_nothing_on_the_web_port(served: Served) -> None:
    node = served.pki.archive
    command = ["sslscan", "--xml=-", f"--certs={node.certificate}", f"--pk={node.key}"]
    command += [f"--sni-name={HOST}", f"127.0.0.1:{served.port}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    test = ET.fromstring(done.stdout).find("ssltest")
    assert test is not None
    spoken = {
        f"{one.get('type')}{one.get('version')}"
        for one in test.iter("protocol")
        if one.get("enabled") == "1"
    }
    assert spoken == {"tls1.2", "tls1.3"}
    older = {
        c.get("cipher") for c in test.iter("cipher") if c.get("sslversion") == "TLSv1.2"
    }
    assert older == {s for s in SUITES if "-ECDSA-" in s}
    assert {c.get("strength") for c in test.iter("cipher")} <= {"strong", "acceptable"}
    renegotiation = test.find("renegotiation")
    assert renegotiation is not None
    assert renegotiation.get("supported") == "0"
    assert {c.get("supported") for c in test.iter("compression")} <= {"0"}
    assert {h.get("vulnerable") for h in test.iter("heartbleed")} == {"0"}
