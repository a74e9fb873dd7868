"""What keys for recipients add to an object: the table in docs/recipients.md.

Run ``PYTHONPATH=. python benchmarks/enclosed_sizes.py``; the marks are those of
``random_mark.py``. Certificates are for RSA keys of 2048 and 4096 bits.
"""

from __future__ import annotations

import datetime as dt
import tempfile
import time
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from pydicom import dcmread, dcmwrite

from benchmarks.random_mark import RandomMark, installed, protect_with
from gateway.dicom.enclosed import enclose, open_enclosed
from gateway.dicom.put_back import attributes_to_put_back
from gateway.sealing.master import FileMasterKey
from gateway.sealing.secrets import SecretStore
from gateway.stages.protect import Original, ProtectedObject
from gateway.vault.container import encode_record
from gateway.vault.recipients import RecipientKey
from gateway.vault.signer import Signer, load_signer

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = ("693_UNCR.dcm", "MR2_UNCR.dcm", "RG1_UNCR.dcm", "US1_UNCR.dcm")
COUNTS = (1, 2, 5)


def recipient(name: str, bits: int) -> RecipientKey:
    """Key and certificate with a name of common length."""
    key = rsa.generate_private_key(65537, bits)
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "DE"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "University Hospital"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    return RecipientKey(certificate, key)


def protect(path: Path) -> ProtectedObject:
    """Mark a file."""
    original = Original(data=path.read_bytes(), kind="file", name=path.name)
    return protect_with(RandomMark(), original)


@dataclass(frozen=True)
class Sending:
    """A protected file, its record as the vault keeps it, and who signs."""

    path: Path
    part10: bytes
    record: bytes
    signer: Signer


def sent(what: Sending, to: list[RecipientKey]) -> bytes:
    """Encode the protected object as recipients get it."""
    dataset = dcmread(BytesIO(what.part10))
    if to:
        enclose(
            dataset,
            what.record,
            original=attributes_to_put_back(dcmread(what.path), dataset),
            recipients=[each.certificate for each in to],
            signer=what.signer,
        )
    stream = BytesIO()
    dcmwrite(stream, dataset)
    return stream.getvalue()


def row(path: Path, people: list[RecipientKey], signer: Signer) -> str:
    """One line of the table; times are the best of five."""
    made = protect(path)
    what = Sending(path, made.part10, encode_record(made.record), signer)
    plain = len(sent(what, []))
    sizes = [len(sent(what, people[:count])) for count in COUNTS]
    over = [f"{size - plain - made.record_bytes:,}" for size in sizes]
    two = sent(what, people[:2])
    put = best(lambda: sent(what, people[:2]))
    bare = best(lambda: sent(what, []))
    opened = best(lambda: open_enclosed(two, people[0]))
    return (
        f"| {path.name} | {plain:,} | {made.record_bytes:,} | {len(two):,} "
        f"| {100 * (len(two) - plain) / plain:.1f} | {' | '.join(over)} "
        f"| {1000 * (put - bare):.0f} | {1000 * opened:.0f} |"
    )


def best(work: Callable[[], object]) -> float:
    """Measure the fastest of five runs, in seconds."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table for both key sizes."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        signer = load_signer(SecretStore(place, FileMasterKey(place / "master.key")))
    for bits in (2048, 4096):
        people = [recipient(f"Radiology {n}", bits) for n in range(max(COUNTS))]
        print(f"RSA {bits}\n")
        print(
            "| file | protected | record | with two recipients | % more "
            f"| {' | '.join(f'beside the record, {n}' for n in COUNTS)} "
            "| enclose, ms | open, ms |"
        )
        print("|---" * (7 + len(COUNTS)) + "|")
        for name in FILES:
            print(row(installed(name), people, signer), flush=True)
        print()


if __name__ == "__main__":
    main()
