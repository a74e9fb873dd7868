"""What rebuilds originals and checks protected objects, from a site's vault."""

from __future__ import annotations

from typing import TYPE_CHECKING

from config.schema import Site
from gateway.app.openers import open_vault_of
from gateway.dicom.listener import Records
from gateway.dicom.restore import restorer
from gateway.stages.export import verified_part
from gateway.store.files import FileStore

if TYPE_CHECKING:
    from gateway.sealing.master import Keys


def records_of(site: Site, store: FileStore, keys: Keys) -> Records:
    """Return what rebuilds originals and checks protected objects."""
    vault = open_vault_of(site, keys)
    return Records(
        restore=restorer(store, vault),
        verify=lambda row: verified_part(row, store, vault),
    )
