"""Test doubles: a protection without models, and a vault without seals.

`MarkingDouble` inverts pixels; nothing here says anything about the engine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from gateway.errors import GatewayError, StoreFull
from gateway.stages.flow import Result, Wanted
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Instance, NewProtected
from gateway.vault.record import KeyRecord, RecordPart, WholeCustody
from tests.waiting import wait_until


class RecordsDouble:
    """Says that every record opens, until told otherwise."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    def get(self, protected_uid: str) -> KeyRecord:
        if self.failure is not None:
            raise self.failure
        return KeyRecord(
            parts=(RecordPart(uid=protected_uid),),
            original_uid="1.2",
            sop_class_uid="1.2",
            transfer_syntax_uid="1.2",
            kind="data-set",
            original_sha256="",
            original_size=0,
            marks=(),
            custody=WholeCustody(received=b""),
        )


class MarkingDouble:
    """Makes an object with other pixels and another UID."""

    def __init__(self, index: Index, store: FileStore, records: RecordsDouble) -> None:
        self.index = index
        self.store = store
        self.records = records
        self.made = 0
        self.fail_for: dict[str, Exception] = {}
        self.crash_for = ""
        self.hold: Path | None = None

    def prepare(self, wanted: Sequence[Wanted]) -> None:
        """There are no models."""

    def protect(self, wanted: Sequence[Wanted]) -> Iterator[Result]:
        for one in wanted:
            try:
                self.make(one.instance)
            except GatewayError as failure:
                if isinstance(failure, StoreFull):
                    raise
                yield Result(failure=failure)
            else:
                yield Result(ready=one.treatments)

    def make(self, instance: Instance) -> None:
        hold = self.hold
        if hold is not None:
            wait_until(lambda: not hold.exists(), 300.0)
        if instance.modality in self.fail_for:
            raise self.fail_for[instance.modality]
        if instance.modality == self.crash_for:
            os._exit(1)  # as a codec that crashes the interpreter
        if self.index.protected_of(instance.id) is not None:
            return
        self.made += 1
        digest = hashlib.sha256(instance.sop_instance_uid.encode()).digest()
        uid = f"2.25.{int.from_bytes(digest[:15], 'big')}"
        with self.store.open(instance.path) as stream:
            dataset = dcmread(BytesIO(stream.read()))
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.PixelData = bytes(255 - value for value in dataset.PixelData)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = BytesIO()
        dcmwrite(stream, dataset, enforce_file_format=True)
        stored = self.store.write_protected(uid, stream.getvalue())
        self.index.add_protected(
            NewProtected(
                instance_id=instance.id,
                sop_instance_uid=uid,
                series_instance_uid="2.25.1",
                study_instance_uid=instance.study_instance_uid,
                sop_class_uid=instance.sop_class_uid,
                transfer_syntax_uid=str(ExplicitVRLittleEndian),
                path=stored.path,
                sha256=stored.sha256,
            )
        )
