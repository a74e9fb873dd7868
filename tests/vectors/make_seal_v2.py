"""Made the seals of version 2, once: ``python -m tests.vectors.make_seal_v2``.

Kept to say what they are. They are never made again: what they hold has to be read
by every later version.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from gateway.sealing.envelope import EnvelopeWriter
from gateway.sealing.head import EMPTY, START, make_slot, open_slots, read_head
from gateway.sealing.master import LocalMasterKey
from gateway.vault.container import decode_record
from gateway.vault.seal import seal

HERE = Path(__file__).parent
MASTER = bytes(range(32))
LATER = bytes(range(32, 64))
CONTEXT = b'{"a":"context"}'
CONTENT = bytes(range(100))


def _chunks() -> bytes:
    """Four chunks, the last one short."""
    stream = io.BytesIO()
    writer = EnvelopeWriter(stream, LocalMasterKey(MASTER), CONTEXT, chunk=32)
    writer.write(CONTENT)
    writer.finish()
    return stream.getvalue()


def _rotating(sealed: bytes) -> bytes:
    """As a rotation leaves it that stopped midway: under two master keys."""
    head = read_head(sealed)
    data_key = open_slots(sealed, head, LocalMasterKey(MASTER)).data_key
    slot = make_slot(data_key, LocalMasterKey(LATER), head)
    return sealed[: START - len(EMPTY)] + slot + sealed[START:]


def _written(name: str, octets: bytes, **what: Any) -> dict[str, Any]:
    (HERE / name).write_bytes(octets)
    return {"file": name, "sha256": hashlib.sha256(octets).hexdigest(), **what}


def main() -> None:
    """Write the vectors."""
    chunks = _chunks()
    record = decode_record((HERE / "record-v2-key.bin").read_bytes())
    table = {
        "comment": "Octets of seal version 2; see docs/record-format.md. "
        "Never rewritten.",
        "master_key": MASTER.hex(),
        "later_master_key": LATER.hex(),
        "context": CONTEXT.decode(),
        "content": CONTENT.hex(),
        "chunks": _written("seal-v2-chunks.bin", chunks, chunk=32),
        "rotating": _written("seal-v2-rotating.bin", _rotating(chunks)),
        "record": _written(
            "seal-v2-record.bin",
            seal(record, LocalMasterKey(MASTER)),
            record="record-v2-key.bin",
            protected_uid=record.protected_uid,
        ),
    }
    (HERE / "seal-v2.json").write_text(json.dumps(table, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
