"""What deletes what a site does not keep, from its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.schema import Site
from gateway.app.openers import open_audit_of, open_vault_of
from gateway.app.places import Places
from gateway.dicom.restore import recovery_of
from gateway.stages.retain import Keeper, committing
from gateway.store.clock import utc_now
from gateway.store.files import FileStore
from gateway.store.index import Index

if TYPE_CHECKING:
    from gateway.sealing.master import Keys


def keeper_of(site: Site, index: Index, store: FileStore, keys: Keys) -> Keeper:
    """Return what deletes what this site does not keep."""
    vault = open_vault_of(site, keys)
    places = Places(site.data_directory)
    return Keeper(
        index=index,
        store=store,
        vault=vault,
        audit=open_audit_of(site, keys),
        settings=site.retention,
        committing=committing(site),
        recovers=recovery_of(store, vault),
        clock=utc_now,
        folders=(places.store, places.vault),
    )
