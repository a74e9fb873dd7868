"""Made the vectors of version 2, once: ``python -m tests.vectors.make_v2``.

Kept to say what they are. They are never made again: what they hold has to be read
by every later version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gateway.dicom.identifiers import UidMapper
from gateway.dicom.pixels import Reading
from gateway.route.treatment import Treatment
from gateway.sealing.master import LocalMasterKey
from gateway.stages.draft import Original
from gateway.stages.followers import follower_of
from gateway.stages.protect import ProtectedObject
from gateway.stages.recipe import PLAIN, Recipe
from gateway.vault.container import encode_record
from gateway.vault.record import links_of
from gateway.vault.seal import seal
from tests.gateway.follow_cases import as_part10, ct_image, key_object, one_each
from tests.gateway.object_cases import (
    EXPLICIT,
    corpus_file,
    encoded,
    grey_dataset,
    protect_one,
)

HERE = Path(__file__).parent
MASTER = bytes(range(32))


def _grey(frames: int) -> Original:
    y, x = np.mgrid[:40, :48]
    values = np.stack([(y * 20 + x * 7 + n * 50) % 4096 for n in range(frames)])
    dataset = grey_dataset(values, bits_stored=12)
    dataset.WindowCenter, dataset.WindowWidth = "600", "1200"
    return Original(
        data=encoded(dataset), kind="data-set", transfer_syntax_uid=EXPLICIT
    )


def _made() -> dict[str, ProtectedObject]:
    sealed = Recipe(treatment=Treatment(custody="sealed-original"))
    keyed = Recipe(treatment=Treatment(custody="key"))
    narrow = Reading(max_frames=9, windows=((300.0, 200.0),))
    apart = Reading(max_frames=9, split_frames="always")
    rle = corpus_file("MR_small_RLE.dcm").read_bytes()
    document = as_part10(key_object([ct_image()]))
    return {
        "key": protect_one(_grey(1), recipe=keyed, reading=narrow),
        "parts": protect_one(_grey(2), recipe=keyed, reading=apart),
        "pixels": protect_one(_grey(1), recipe=sealed),
        "whole": protect_one(Original(data=rle, kind="file", name="MR_small_RLE.dcm")),
        "follower": follower_of(
            Original(data=document, kind="file", name="key-object.dcm"),
            recipe=PLAIN,
            resolve=one_each,
            uids=UidMapper(b"u" * 32),
        ),
    }


def _write(name: str, octets: bytes) -> str:
    (HERE / name).write_bytes(octets)
    return name


def _described(name: str, made: ProtectedObject) -> dict[str, Any]:
    record = made.record
    links: Sequence[bytes] = [encode_record(link) for link in links_of(record)]
    return {
        "file": _write(f"record-v2-{name}.bin", encode_record(record)),
        "links": [
            _write(f"record-v2-{name}-link-{n}.bin", octets)
            for n, octets in enumerate(links, start=1)
        ],
        "protected": {
            part.sop_instance_uid: _write(f"record-v2-{name}-{n}.part10", part.part10)
            for n, part in enumerate(made.parts)
        },
        "custody": record.custody_name,
        "original_uid": record.original_uid,
        "original_sha256": record.original_sha256,
        "alphas": [mark.alpha for mark in record.marks],
        "delta_units": [mark.delta_unit.hex() for mark in record.marks],
    }


def main() -> None:
    """Write the vectors."""
    made = _made()
    records = {name: _described(name, each) for name, each in made.items()}
    # Was made when seals were of version 1.
    octets = seal(made["key"].record, LocalMasterKey(MASTER))
    sealed = _write("sealed-v1-record-v2.bin", octets)
    hashed = hashlib.sha256((HERE / sealed).read_bytes()).hexdigest()
    table = {
        "comment": "Octets of format version 2; see docs/record-format.md. "
        "Never rewritten.",
        "records": records,
        "sealed": {
            "file": sealed,
            "sha256": hashed,
            "master_key": MASTER.hex(),
            "record": "key",
        },
    }
    (HERE / "record-v2.json").write_text(json.dumps(table, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
