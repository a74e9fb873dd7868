"""Recipes of a site's treatments, and the protection that uses them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.dicom.deidentify import Deidentifier
from gateway.dicom.enclosed import enclose
from gateway.dicom.identifiers import UidMapper, load_secret
from gateway.dicom.parse import Bounds
from gateway.dicom.put_back import attributes_to_put_back
from gateway.stages.flow_protect import Protection
from gateway.stages.protectors import Protectors
from gateway.stages.recipe import Recipe
from gateway.vault.recipients import load_recipients
from gateway.vault.signer import load_signer

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from config.schema import Site
    from gateway.route.treatment import Treatment
    from gateway.sealing.secrets import SecretStore
    from gateway.stages.recipe import Enclose
    from gateway.store.files import FileStore
    from gateway.store.index import Index
    from gateway.vault.vault import Vault


class Recipes:
    """Recipes of a site, each made once.

    Parameters
    ----------
    site
        Names profiles and recipients.
    uids
        Maps UIDs.
    secrets
        Hold the site's signing key; made on first use.
    """

    def __init__(self, site: Site, uids: UidMapper, secrets: SecretStore) -> None:
        self._site = site
        self._uids = uids
        self._secrets = secrets
        self.of = lru_cache(maxsize=None)(self._made)

    def _made(self, treatment: Treatment) -> Recipe:
        """Make the recipe of a treatment."""
        deidentifier, maps_uids = self._deidentifier(treatment.deidentify)
        return Recipe(
            treatment=treatment,
            deidentify=None if deidentifier is None else deidentifier.apply,
            maps_uids=maps_uids,
            enclose=self._enclose(treatment.recipients_of),
        )

    def _deidentifier(self, name: str) -> tuple[Deidentifier | None, bool]:
        """Return the deidentifier of a profile, and whether it maps UIDs."""
        if not name:
            return None, False
        profile = next(p for p in self._site.deidentification if p.name == name)
        maps_uids = "retain-uids" not in profile.options
        return Deidentifier(profile.options, self._uids), maps_uids

    def _enclose(self, destination: str) -> Enclose | None:
        if not destination:
            return None
        found = next(d for d in self._site.destinations if d.name == destination)
        recipients = load_recipients(found.recipients)
        signer = load_signer(self._secrets)

        def put_in(dataset: Dataset, record: bytes, original: Dataset) -> None:
            attributes = attributes_to_put_back(original, dataset)
            enclose(
                dataset,
                record,
                original=attributes,
                recipients=recipients,
                signer=signer,
            )

        return put_in


def build_protection(
    site: Site, secrets: SecretStore, index: Index, store: FileStore, vault: Vault
) -> Protection:
    """Return the protection a site configures; models are loaded when used."""
    settings = site.protection
    uids = UidMapper(load_secret(secrets))
    bounds = Bounds.of(site.limits)
    return Protection(
        index=index,
        store=store,
        vault=vault,
        protectors=Protectors(settings, bounds, site.worker),
        recipe=Recipes(site, uids, secrets).of,
        uids=uids,
        when_not_fooled=settings.when_not_fooled,
        batch_frames=settings.batch_frames,
        batch_bytes=site.worker.batch_bytes,
        bounds=bounds,
    )
