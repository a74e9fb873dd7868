"""The parts of a site, opened from its settings."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from config.schema import Site
from gateway.access.access import Access
from gateway.access.ledger import KEY_LENGTH, Books
from gateway.app.places import Places
from gateway.audit.log import AuditLog
from gateway.audit.sealer import KEY_LENGTH as AUDIT_KEY_LENGTH
from gateway.audit.sealer import AesFieldSealer
from gateway.sealing.ring import open_ring
from gateway.sealing.secrets import SecretStore
from gateway.store.cipher import KEY_BYTES
from gateway.store.durable import make_directory
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index
from gateway.store.names import SECRET_BYTES
from gateway.store.space import Room, Space
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from gateway.sealing.master import Keys
    from gateway.sealing.ring import KeyRing
    from gateway.tls.identity import TlsIdentity


def open_keys_of(site: Site) -> KeyRing:
    """Open the master keys of a site, once per process; made on first use.

    Raises
    ------
    ConfigurationError
        One is missing, others may reach it, or it is not a key.
    """
    return open_ring(site.vault, site.data_directory)


def open_secrets_of(site: Site, keys: Keys) -> SecretStore:
    """Open what a site keeps sealed under its master key."""
    return SecretStore(Places(site.data_directory).secrets, keys)


def open_index_of(site: Site, keys: Keys, *, backed_up: bool = False) -> Index:
    """Open the index of a site; made, or upgraded, where there is need.

    Parameters
    ----------
    site, keys
        Whose it is, and what opens it.
    backed_up
        A person says that there is a backup; see `Index`.

    Raises
    ------
    ConfigurationError
        It belongs to another key, is damaged, or a newer program has written it.
    """
    key = open_secrets_of(site, keys).get("index.key", KEY_BYTES)
    path = Places(site.data_directory).index
    return open_index(path, key, backed_up=backed_up)


def open_store_of(site: Site, keys: Keys) -> FileStore:
    """Open the store of a site, made where there is none."""
    secret = open_secrets_of(site, keys).get("store.key", SECRET_BYTES)
    space = open_space_of(site, keys)
    return FileStore(Places(site.data_directory).store, keys, secret, space)


def open_space_of(site: Site, keys: Keys) -> Space:
    """Return what says whether there is room; changes go into the trail."""
    places = Places(site.data_directory)
    audit = open_audit_of(site, keys)

    def told(accepting: bool, room: Room) -> None:
        audit.note(
            "disk",
            "success" if accepting else "failure",
            accepting=accepting,
            free_bytes=room.volume.free,
            place=room.tightest.name,
        )

    for place in (places.root, places.store, places.temporary("")):
        make_directory(place)
    return Space(
        site.disk,
        (places.root, places.store, places.temporary("")),
        places.full,
        told=told,
    )


def open_vault_of(site: Site, keys: Keys) -> Vault:
    """Open the vault of a site."""
    return Vault(Places(site.data_directory).vault, keys)


def open_audit_of(site: Site, keys: Keys) -> AuditLog:
    """Open the audit trail of a site; personal fields are sealed."""
    key = open_secrets_of(site, keys).get("audit", AUDIT_KEY_LENGTH)
    return AuditLog(Places(site.data_directory).audit, sealer=AesFieldSealer(key))


def open_access_of(
    site: Site, index: Index, audit: AuditLog, keys: Keys, *, check: bool = True
) -> Access:
    """Open grants, approvals and their clock.

    Parameters
    ----------
    site, index, audit, keys
        What else is open.
    check
        Whether tables with rows have to have an anchor.

    Raises
    ------
    ConfigurationError
        The secret cannot be read, or a node's or person's certificate.
    AccessTampered
        The tables of grants are not what was recorded.
    """
    places = Places(site.data_directory)
    key = open_secrets_of(site, keys).get("grants.key", KEY_LENGTH)
    books = Books(index.database, key, places.anchor, check=check)
    return Access(site=site, index=index, books=books, audit=audit)


def open_tls_of(site: Site) -> TlsIdentity | None:
    """Return what destinations know this side by; None: no ``[tls]`` table."""
    from gateway.sealing.providers import read_secret
    from gateway.tls.identity import TlsIdentity

    if site.tls is None:
        return None
    return TlsIdentity(
        site.tls, partial(read_secret, base_directory=site.data_directory)
    )
