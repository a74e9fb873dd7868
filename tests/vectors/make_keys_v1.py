"""Made the backups of a master key and the enclosed key, once.

``python -m tests.vectors.make_keys_v1``. Kept to say what they are. They are never
made again: what they hold has to be read by every later version.
"""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from gateway.sealing.backup import Export, seal_export
from gateway.sealing.shamir import split
from gateway.vault.container import encode_record
from tests.gateway.recipient_cases import made, recipient, site_signer, with_key

HERE = Path(__file__).parent
MASTER = bytes(range(32))
KEY_ID = "00112233445566778899aabbccddeeff"
PASSPHRASE = "six words that nobody would guess"


def main() -> None:
    """Write the vectors."""
    export = seal_export(Export(site="north", key_id=KEY_ID, secret=MASTER), PASSPHRASE)
    (HERE / "export-v1.json").write_bytes(export)
    shares = split(MASTER, site="north", key_id=KEY_ID, count=3, threshold=2)
    for share in shares:
        (HERE / f"slip39-{share.number}.txt").write_text(share.document())
    (HERE / "enclosed-v1.part10").write_bytes(with_key("anna"))
    (HERE / "enclosed-v1-record.bin").write_bytes(encode_record(made().record))
    anna = recipient("anna")
    octets = anna.private_key.private_bytes(
        Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
    )
    (HERE / "enclosed-v1-key.der").write_bytes(octets)
    certificates = {"recipient": anna.certificate, "signer": site_signer().certificate}
    for name, certificate in certificates.items():
        octets = certificate.public_bytes(Encoding.DER)
        (HERE / f"enclosed-v1-{name}.der").write_bytes(octets)
    table = {"secret": MASTER.hex(), "key_id": KEY_ID, "passphrase": PASSPHRASE}
    (HERE / "keys-v1.json").write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
