"""The steps of `benchmarks.big` that are processes of their own.

python -m benchmarks.big_steps send FILE PORT
python -m benchmarks.big_steps work SITE UID
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.big import forget_peak, peak_of
from config.load import load_site
from engine.types import SIT
from engine.watermark.stored import Mark, add_mark, make_key
from gateway.app.openers import (
    open_index_of,
    open_keys_of,
    open_secrets_of,
    open_store_of,
    open_vault_of,
)
from gateway.app.places import Places
from gateway.dicom.rawstore import OutboundObject, store_bytes
from gateway.dicom.sender import Sender, Verdict
from gateway.route.treatment import PLAIN
from gateway.stages.export import verified_protected
from gateway.stages.flow import Wanted
from gateway.stages.recipes import build_protection
from gateway.store.part10 import read_head
from gateway.store.private import use_private_temporary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.types import Frame, FrameKey
    from gateway.dicom.pixels import Reading
    from gateway.route.keywords import Value
    from gateway.stages.protectors import Protectors


@dataclass
class Report:
    """Stands in for the engine's."""

    success: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"success": self.success}


@dataclass
class Marked:
    """A frame with a real mark and a real key."""

    stored: Any
    key: FrameKey
    report: Report
    trace: None = None
    neighbour: None = None


class StandIn:
    """Marks frames at a place the seed gives, with a key that gives them back."""

    def __init__(self, side: int = 64) -> None:
        rng = np.random.default_rng(1)
        matte = rng.choice(np.array([0, 90, 255]), (side, side, 1))
        grey = rng.integers(0, 256, (side, side, 1)) * matte // 255
        wide = np.broadcast_to(grey, (side, side, 3))
        self._patch = np.concatenate([wide, matte], axis=2).astype(np.uint8)
        self._side = side

    def protect_many(
        self, frames: Sequence[Frame], *, seeds: Sequence[bytes], **_: object
    ) -> list[Marked]:
        """Mark frames."""
        return [self._marked(*one) for one in zip(frames, seeds, strict=True)]

    def _marked(self, frame: Frame, seed: bytes) -> Marked:
        rng = np.random.default_rng(list(seed))
        rows, columns = frame.stored.shape[:2]
        mark = Mark(
            x=int(rng.integers(0, columns - self._side)),
            y=int(rng.integers(0, rows - self._side)),
            alpha=128,
            sit=SIT(rotation=0.0, hue=0.0),
            patch=self._patch,
        )
        stored = add_mark(frame.stored, frame, mark)
        delta = np.zeros((224, 224), np.int8)
        key = make_key(frame, stored, mark, delta=delta, logo_sha256="0" * 64)
        return Marked(stored=stored, key=key, report=Report())


@dataclass
class Choice:
    """Chooses the stand-in; the rest is what the site says."""

    real: Protectors
    keywords = frozenset[str]()

    def choose(self, attributes: Mapping[str, Value]) -> StandIn:
        """Return the stand-in."""
        del attributes
        return StandIn()

    def reading(self, attributes: Mapping[str, Value]) -> Reading:
        """Return how an object is read."""
        return self.real.reading(attributes)


def send(file: Path, port: int) -> None:
    """Send a Part 10 file by C-STORE, read as it is sent."""
    from pynetdicom import AE

    with file.open("rb") as stream:
        meta = read_head(stream)
    ae = AE(ae_title="MODALITY")
    ae.dimse_timeout = ae.network_timeout = 3600
    ae.add_requested_context(meta.sop_class_uid, meta.transfer_syntax_uid)
    association = ae.associate("127.0.0.1", port, ae_title="MIAD-GATEWAY")
    outbound = OutboundObject(
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        data=partial(file.open, "rb"),
    )
    status = store_bytes(association, outbound).status
    association.release()
    if status != 0:
        raise SystemExit(f"C-STORE: 0x{status:04X}")


def work(config: Path, uid: str) -> dict[str, Any]:
    """Protect one object and send what was made of it; tell the peaks."""
    site = load_site(config)
    use_private_temporary(Places(site.data_directory).temporary("worker"))
    keys = open_keys_of(site)
    index, store = open_index_of(site, keys), open_store_of(site, keys)
    vault = open_vault_of(site, keys)
    protection = build_protection(
        site, open_secrets_of(site, keys), index, store, vault
    )
    protection.protectors.choose({})  # torch and the models, as in a worker
    object.__setattr__(protection, "protectors", Choice(protection.protectors))
    instance = index.instance(uid)
    assert instance is not None
    own, steps, seconds = os.getpid(), {}, {}
    steps["worker, models loaded"] = peak_of(own)
    forget_peak(own)
    start = time.monotonic()
    (result,) = protection.protect([Wanted(instance=instance, treatments=(PLAIN,))])
    if result.failure is not None:
        raise result.failure
    steps["worker, protecting"] = peak_of(own)
    seconds["protect"] = time.monotonic() - start
    forget_peak(own)
    start = time.monotonic()
    rows = verified_protected(index.protected_parts(instance.id, ""), store, vault)
    objects = [
        OutboundObject(
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            data=partial(store.open, row.path),
        )
        for row in rows
    ]
    sender = Sender(tls=None)
    results = list(sender.send(site.destinations[0], objects, "MIAD-GATEWAY"))
    sender.close()
    if any(one.verdict is not Verdict.SENT for one in results):
        raise SystemExit(f"not sent: {results[0]}")
    steps["worker, exporting"] = peak_of(own)
    seconds["export"] = time.monotonic() - start
    index.close()
    return {"steps": steps, "seconds": seconds, "sha256": instance.sha256}


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        print(json.dumps(work(Path(sys.argv[2]), sys.argv[3])))
