"""TLS of a running receiver as others see it: DCMTK and sslscan."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from gateway.dicom.sender import Verdict
from gateway.tls.contexts import SUITES
from gateway.tls.identity import TlsIdentity
from tests.endtoend.peers import ENVIRONMENT, dcmtk, tool
from tests.gateway.outside import destination, send_objects, unused_port
from tests.gateway.pki_cases import (
    HOST,
    NodeFiles,
    Pki,
    pki_of,
    secrets_in,
    secure_site,
)
from tests.gateway.scp import Gateway, example, gateway
from tests.waiting import wait_until

pytestmark = pytest.mark.peers

SUITES_1_3 = {
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
}
GROUPS = {
    "x25519",
    "secp256r1 (NIST P-256)",
    "secp384r1 (NIST P-384)",
    "secp521r1 (NIST P-521)",
    "x448",
    "ffdhe2048",
    "ffdhe3072",
    "ffdhe4096",
    "ffdhe6144",
    "ffdhe8192",
}


@pytest.fixture(params=["ecdsa", "rsa"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> Iterator[tuple[Gateway, Pki]]:
    """A gateway with a certificate of either kind; DCMTK calls it STORESCU."""
    folder = tmp_path_factory.mktemp(kind)
    pki = pki_of(folder / "pki")
    pki.authority.node(
        "gateway",
        dns=[HOST, "localhost"],
        addresses=["127.0.0.1"],
        key_type=kind,  # type: ignore[arg-type]
    )
    node = {"name": "dcmtk", "ae_titles": ["STORESCU"], "roles": ["store"]}
    named = {**node, "certificate_names": ["modality.test"]}
    settings = secure_site(folder / "site", pki, nodes=[named], grants=[])
    with gateway(settings) as listening:
        yield listening, pki


def port_of(made: Gateway) -> int:
    port = made.running.ports.receiver
    assert port is not None
    return port


def path_of(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return path


def credentials(pki: Pki, node: NodeFiles) -> list[str]:
    own = ["+tls", str(node.key), str(node.certificate)]
    return [*own, "+cf", str(pki.authority.certificate)]


def storescu(
    made: Gateway, pki: Pki, *options: str, node: NodeFiles | None = None
) -> subprocess.CompletedProcess[str]:
    own = credentials(pki, node or pki.modality)
    where = ["-aec", "MIAD-GATEWAY", "127.0.0.1", str(port_of(made))]
    return dcmtk("storescu", "-v", *own, *options, *where, path_of("CT_small.dcm"))


@pytest.mark.parametrize("profile", ["--profile-bcp195-nd", "--profile-bcp195-ex"])
def test_dcmtk_sends_with_its_profiles(
    running: tuple[Gateway, Pki], profile: str
) -> None:
    made, pki = running
    done = storescu(made, pki, profile)

    assert "Success" in done.stdout + done.stderr
    assert made.index.instance(example("CT_small.dcm").sop_instance_uid) is not None


def test_dcmtk_with_a_revoked_certificate_is_refused(
    running: tuple[Gateway, Pki],
) -> None:
    made, pki = running
    before = len(made.audited("association", "refused"))

    done = storescu(made, pki, node=pki.revoked)

    assert done.returncode != 0
    wait_until(lambda: len(made.audited("association", "refused")) > before)
    entry = made.audited("association", "refused")[-1]
    assert entry["why"] == "certificate-revoked"


@contextmanager
def storescp(directory: Path, pki: Pki, node: NodeFiles) -> Iterator[int]:
    """DCMTK's storescp with TLS, which wants a certificate and checks the list."""
    directory.mkdir()
    port = unused_port()
    command = [tool("storescp"), *credentials(pki, node)]
    command += ["+crl", str(pki.authority.crl), "+B", "-od", str(directory), str(port)]
    with subprocess.Popen(command, env=ENVIRONMENT) as process:
        try:
            wait_until(lambda: echo(pki, port))
            yield port
        finally:
            process.terminate()


def echo(pki: Pki, port: int) -> bool:
    own = credentials(pki, pki.modality)
    done = dcmtk("echoscu", *own, "127.0.0.1", str(port))
    return done.returncode == 0


def test_exports_to_dcmtk(tmp_path: Path, running: tuple[Gateway, Pki]) -> None:
    made, pki = running
    assert made.site.tls is not None
    identity = TlsIdentity(made.site.tls, secrets_in(tmp_path))
    item = example("CT_small.dcm")
    with storescp(tmp_path / "archive", pki, pki.archive) as port:
        for plain, verdict in ((False, Verdict.SENT), (True, Verdict.TRANSIENT)):
            place = destination(port, plain=plain, timeout_seconds=10.0)
            (result,) = send_objects(place, [item], "MIAD-GATEWAY", identity)
            assert result.verdict is verdict

    (arrived,) = (tmp_path / "archive").iterdir()
    assert isinstance(item.data, bytes)
    assert arrived.read_bytes().endswith(item.data)


def test_sslscan_finds_nothing(running: tuple[Gateway, Pki], kind: str) -> None:
    made, pki = running
    node = pki.modality
    command = ["sslscan", "--xml=-", "--show-times"]
    command += [f"--certs={node.certificate}", f"--pk={node.key}"]
    command += [f"--sni-name={HOST}", f"127.0.0.1:{port_of(made)}"]
    scanned = subprocess.run(command, capture_output=True, check=True, timeout=120)
    test = ET.fromstring(scanned.stdout).find("ssltest")
    assert test is not None

    spoken = {
        f"{one.get('type')}{one.get('version')}": one.get("enabled")
        for one in test.iter("protocol")
    }
    assert spoken == {
        "ssl2": "0",
        "ssl3": "0",
        "tls1.0": "0",
        "tls1.1": "0",
        "tls1.2": "1",
        "tls1.3": "1",
    }
    ciphers = {(c.get("sslversion"), c.get("cipher")) for c in test.iter("cipher")}
    own = {("TLSv1.2", s) for s in SUITES if f"-{kind.upper()}-" in s}
    assert ciphers == own | {("TLSv1.3", s) for s in SUITES_1_3}
    strengths = {one.get("strength") for one in test.iter("cipher")}
    assert strengths <= {"strong", "acceptable"}
    assert {g.get("name") for g in test.iter("group")} <= GROUPS
    renegotiation = test.find("renegotiation")
    assert renegotiation is not None
    assert renegotiation.get("supported") == "0"
    # Left out where sslscan's own OpenSSL has no compression; see also s_client.
    assert {c.get("supported") for c in test.iter("compression")} <= {"0"}
    assert {h.get("vulnerable") for h in test.iter("heartbleed")} == {"0"}
    certificate = test.find("certificates/certificate")
    assert certificate is not None
    algorithm = certificate.findtext("signature-algorithm") or ""
    assert algorithm.lower() == "ecdsa-with-sha256"
    assert certificate.findtext("expired") == "false"
    assert certificate.findtext("self-signed") == "false"
