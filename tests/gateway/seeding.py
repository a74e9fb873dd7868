"""Protected objects in store, vault and index, as the worker leaves them.

The marks are those of the engine's own blend, without a search: milliseconds.
"""

from __future__ import annotations

from io import BytesIO

from pydicom import dcmread

from gateway.dicom.header import read_attributes
from gateway.dicom.identifiers import UidMapper
from gateway.stages.draft import Original
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Instance, NewProtected, Protected
from gateway.vault.vault import Vault
from tests.gateway.object_cases import as_file, protect_one

SITE_KEY = b"u" * 32


def protect(
    instance: Instance,
    store: FileStore,
    index: Index,
    vault: Vault,
    **attributes: object,
) -> Protected:
    """Protect a stored object; ``attributes`` are set on the protected one."""
    data_set, syntax = store.read_data_set(instance.path)
    made = protect_one(
        Original(data=data_set, kind="data-set", transfer_syntax_uid=syntax),
        uids=UidMapper(SITE_KEY),
    )
    part10 = made.part10
    if attributes:
        dataset = dcmread(BytesIO(part10))
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        part10 = as_file(dataset)
    vault.put(made.record)
    stored = store.write_protected(made.sop_instance_uid, part10)
    syntax = made.parts[0].transfer_syntax_uid
    known = read_attributes(BytesIO(part10), syntax)
    index.add_protected(
        NewProtected(
            instance_id=instance.id,
            transfer_syntax_uid=syntax,
            path=stored.path,
            sha256=stored.sha256,
            **vars(known),
        )
    )
    row = index.protected_by_uid(made.sop_instance_uid)
    assert row is not None
    return row
