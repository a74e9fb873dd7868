"""Make and keep the protected object of a received one, exactly once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pydicom import dcmread

from gateway.dicom.header import read_attributes
from gateway.dicom.identifiers import UidMapper, load_secret
from gateway.errors import StoredObjectDamaged
from gateway.log import get_logger
from gateway.route.attributes import attributes_of
from gateway.route.keywords import Value
from gateway.stages.export import verified_protected
from gateway.stages.protect import (
    FrameProtector,
    Original,
    ProtectedObject,
    WhenNotFooled,
    protect_object,
)
from gateway.stages.protectors import Protectors
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Instance, NewProtected
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from config.schema import Site


class Choosing(Protocol):
    """Chooses who protects an object by its attributes."""

    @property
    def keywords(self) -> Collection[str]:
        """What it needs to know."""

    def choose(self, attributes: Mapping[str, Value]) -> FrameProtector:
        """Return the protector of an object with these attributes."""


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Protects instances of the store."""

    index: Index
    store: FileStore
    vault: Vault
    protectors: Choosing
    uids: UidMapper
    max_frames: int
    when_not_fooled: WhenNotFooled

    def protect(self, instance: Instance) -> None:
        """Seal the record, store the object, add its row; in this order.

        A crash in between leaves a record or a file without a row: they are
        written anew, and nothing has left. With a row nothing is made again,
        since the object of that row may have left; it has to verify instead.

        Raises
        ------
        Unprotectable
            The object cannot be protected.
        UnprotectedExport
            A protected object is recorded but no longer whole.
        StoredObjectDamaged
            The stored original is not what was received.
        StoreFull
            There is no room.
        """
        row = self.index.protected_of(instance.id)
        if row is not None:
            verified_protected(row, self.store, self.vault)
            return
        made = self._made(instance)
        self.vault.put(made.record)
        stored = self.store.write_protected(made.sop_instance_uid, made.part10)
        attributes = read_attributes(
            self.store.absolute(stored.path), made.transfer_syntax_uid
        )
        self.index.add_protected(
            NewProtected(
                **asdict(attributes),
                instance_id=instance.id,
                transfer_syntax_uid=made.transfer_syntax_uid,
                path=stored.path,
                sha256=stored.sha256,
                report=made.report,
            )
        )
        get_logger("protect").info(
            "protected", instance_id=instance.id, record_bytes=made.record_bytes
        )

    def _made(self, instance: Instance) -> ProtectedObject:
        data, syntax = self.store.read_data_set(instance.path)
        if hashlib.sha256(data).hexdigest() != instance.sha256:
            raise StoredObjectDamaged(
                f"The stored file {instance.path} is not what was received"
            )
        protector = self.protectors.choose(self._attributes(instance))
        return protect_object(
            Original(data=data, kind="data-set", transfer_syntax_uid=syntax),
            protector=protector,
            uids=self.uids,
            max_frames=self.max_frames,
            when_not_fooled=self.when_not_fooled,
        )

    def _attributes(self, instance: Instance) -> dict[str, Value]:
        path = self.store.absolute(instance.path)
        dataset = dcmread(path, stop_before_pixels=True)
        return attributes_of(dataset, instance, self.protectors.keywords)


def build_protection(
    site: Site, uid_key: Path, index: Index, store: FileStore, vault: Vault
) -> Protection:
    """Return the protection a site configures; models are loaded when used."""
    settings = site.protection
    return Protection(
        index=index,
        store=store,
        vault=vault,
        protectors=Protectors(settings),
        uids=UidMapper(load_secret(uid_key)),
        max_frames=settings.max_frames,
        when_not_fooled=settings.when_not_fooled,
    )
