"""Every version of every format has octets that were written once, and open."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from gateway.audit import sealer
from gateway.dicom import enclosed
from gateway.dicom.enclosed import open_enclosed
from gateway.errors import BackupRefused, InvalidSeal
from gateway.sealing import backup, head
from gateway.sealing.backup import open_export
from gateway.sealing.head import read_head
from gateway.sealing.shamir import combine
from gateway.store.upgrade import SCRIPTS, _config
from gateway.vault import container
from gateway.vault.container import decode_record, encode_record
from gateway.vault.recipients import RecipientKey

VECTORS = Path(__file__).parents[1] / "vectors"

FORMATS = {
    "record": (container.VERSION, "record-v{}.json"),
    "seal": (head.VERSION, "seal-v{}.json"),
    "export": (backup.VERSION, "export-v{}.json"),
    "enclosed": (int(enclosed.VERSION), "enclosed-v{}.part10"),
}
"""Newest version of a format, and the file with octets of each."""

FIRST_SEAL = "sealed-v1.bin"


@pytest.mark.parametrize("name", FORMATS)
def test_every_version_has_a_vector(name: str) -> None:
    newest, pattern = FORMATS[name]
    for version in range(1, newest + 1):
        known = VECTORS / pattern.format(version)
        old = VECTORS / FIRST_SEAL if (name, version) == ("seal", 1) else known
        assert old.is_file(), f"{name} {version}: make a vector, see README.md"


def test_every_revision_of_the_index_that_was_released_has_a_site() -> None:
    from alembic.script import ScriptDirectory

    assert SCRIPTS
    scripts = ScriptDirectory.from_config(_config())
    revisions = {script.revision for script in scripts.walk_revisions()}
    # 0004 to 0006 belong to one release: no index is ever left at 0004 or 0005.
    released = revisions - {"0004", "0005", "0006"}
    assert {f"site-{one}.tar.xz" for one in released} == {
        path.name for path in VECTORS.glob("site-*.tar.xz")
    }


def test_the_newest_site_has_all_kinds_of_files() -> None:
    """Store files, secrets, lines of the trail with sealed fields, the jobs."""
    assert sealer._VERSION == b"\x01"
    with tarfile.open(VECTORS / "site-0003.tar.xz") as packed:
        names = set(packed.getnames())
        trail = packed.extractfile("audit/audit.jsonl")
        assert trail is not None
        lines = [json.loads(line) for line in trail]
    assert {"index.sqlite", "jobs.sqlite", "access/anchor.json"} <= names
    for secret in ("index.key", "store.key", "grants.key", "uid.key", "audit"):
        assert f"secrets/{secret}.sealed" in names
    assert any("personal" in line for line in lines)


def test_each_file_is_told_of() -> None:
    told = (VECTORS / "README.md").read_text()
    for path in VECTORS.glob("*-*"):
        stem = path.name.split("-")[0].removesuffix(".py")
        assert stem in told, path.name


def keys() -> dict[str, str]:
    found: dict[str, str] = json.loads((VECTORS / "keys-v1.json").read_text())
    return found


def test_an_export_of_version_1_gives_the_key() -> None:
    octets = (VECTORS / "export-v1.json").read_bytes()
    found = open_export(octets, keys()["passphrase"])
    assert (found.secret.hex(), found.key_id) == (keys()["secret"], keys()["key_id"])
    later = octets.replace(b'"version": 1', b'"version": 7')
    with pytest.raises(BackupRefused, match=r"version 7.*newer version"):
        open_export(later, keys()["passphrase"])


@pytest.mark.parametrize("numbers", [(1, 2), (2, 3), (1, 3)])
def test_shares_of_words_give_the_key(numbers: tuple[int, ...]) -> None:
    """SLIP-39, as it was printed on paper."""
    documents = {str(n): (VECTORS / f"slip39-{n}.txt").read_text() for n in numbers}
    assert combine(documents).secret.hex() == keys()["secret"]


def test_an_enclosed_key_of_version_1_opens() -> None:
    def certificate(name: str) -> x509.Certificate:
        octets = (VECTORS / f"enclosed-v1-{name}.der").read_bytes()
        return x509.load_der_x509_certificate(octets)

    octets = (VECTORS / "enclosed-v1-key.der").read_bytes()
    private = load_der_private_key(octets, None)
    assert isinstance(private, RSAPrivateKey)
    opened = open_enclosed(
        (VECTORS / "enclosed-v1.part10").read_bytes(),
        RecipientKey(certificate("recipient"), private),
        trusted_signer=certificate("signer"),
    )
    record = (VECTORS / "enclosed-v1-record.bin").read_bytes()
    assert encode_record(opened.record) == record


def test_what_a_newer_version_wrote_is_said_to_be() -> None:
    sealed = bytearray((VECTORS / "seal-v2-chunks.bin").read_bytes())
    sealed[8] = 3
    with pytest.raises(InvalidSeal, match=r"version 3.*newer version"):
        read_head(bytes(sealed))
    record = bytearray((VECTORS / "record-v2-key.bin").read_bytes())
    record[7] = 9
    with pytest.raises(InvalidSeal, match=r"version 9.*newer version"):
        decode_record(bytes(record))
