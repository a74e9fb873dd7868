"""The parts of a site, opened from its settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from config.schema import Site
from gateway.access.access import Access
from gateway.access.ledger import KEY_LENGTH, Books
from gateway.app.places import Places
from gateway.audit.log import AuditLog
from gateway.audit.sealer import KEY_LENGTH as AUDIT_KEY_LENGTH
from gateway.audit.sealer import AesFieldSealer
from gateway.errors import ConfigurationError
from gateway.sealing.providers import FileProvider, provider_of, read_secret
from gateway.sealing.ring import open_ring
from gateway.sealing.secrets import SecretStore
from gateway.store.cipher import KEY_BYTES
from gateway.store.durable import make_directory
from gateway.store.fence import Fence, SharedFence
from gateway.store.files import FileStore
from gateway.store.incoming import INCOMING
from gateway.store.index import Index, open_index
from gateway.store.locks import Locks
from gateway.store.names import SECRET_BYTES
from gateway.store.server import Server, server_of
from gateway.store.shared import SharedSecrets
from gateway.store.space import Room, Space
from gateway.vault.shared import SharedVault
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.sealing.master import Keys
    from gateway.sealing.ring import KeyRing
    from gateway.store.objects import ObjectBlobs
    from gateway.tls.identity import TlsIdentity


def open_keys_of(site: Site) -> KeyRing:
    """Open the master keys of a site, once per process; made on first use.

    Where several machines share a site none is made: each would make its own.

    Raises
    ------
    ConfigurationError
        One is missing, others may reach it, or it is not a key.
    """
    if site.objects is not None:
        provider = provider_of(site.vault.master_key, site.data_directory)
        if isinstance(provider, FileProvider) and provider.stamp() is None:
            raise ConfigurationError(
                f"there is no master key {provider.path}: make one on one machine"
                " (openssl rand 32, mode 0600) and put the same on each"
            )
    return open_ring(site.vault, site.data_directory)


def server_of_site(site: Site) -> Server | None:
    """Return the PostgreSQL server of a site; None: it has none.

    Raises
    ------
    ConfigurationError
        Its password is not where it is said to be.
    """
    if site.database is None:
        return None
    return server_of(site.database, _reader(site))


def open_objects_of(site: Site, *, patient: bool = False) -> ObjectBlobs | None:
    """Open the object store of a site; None: it has none. Nothing is asked yet.

    Parameters
    ----------
    site
        Its settings.
    patient
        Wait for a store that does not answer, however long: nobody else waits.

    Raises
    ------
    ConfigurationError
        A key is not where it is said to be, or the file of authorities.
    """
    server = server_of_site(site)
    if site.objects is None or server is None:
        return None
    from gateway.store.objects import UNTIL_IT_ANSWERS, Bucket, ObjectBlobs

    read = _reader(site)
    bucket = Bucket(
        settings=site.objects,
        access_key=read(site.objects.access_key).decode(),
        secret_key=read(site.objects.secret_key).decode(),
    )
    patience = UNTIL_IT_ANSWERS if patient else 0.0
    spool = Places(site.data_directory).store / INCOMING
    return ObjectBlobs(bucket.open(), spool, Locks(server), patience)


def open_secrets_of(site: Site, keys: Keys) -> SecretStore:
    """Open what a site keeps sealed under its master key."""
    directory = Places(site.data_directory).secrets
    shared = open_objects_of(site)
    if shared is None:
        return SecretStore(directory, keys)
    return SharedSecrets(shared, directory, keys)


def open_index_of(
    site: Site, keys: Keys, *, patient: bool = False, backed_up: bool = False
) -> Index:
    """Open the index of a site; made, or upgraded, where there is need.

    Parameters
    ----------
    site, keys
        Its settings and keys.
    patient
        Wait for a server that does not answer, however long.
    backed_up
        A person says that there is a backup; see `Index`.

    Raises
    ------
    ConfigurationError
        It belongs to another key, is damaged, or a newer program has written it.
    """
    server = server_of_site(site)
    if server is not None:
        if patient:
            server = replace(server, patience_seconds=inf)
        return Index(server, backed_up=backed_up)
    key = open_secrets_of(site, keys).get("index.key", KEY_BYTES)
    path = Places(site.data_directory).index
    return open_index(path, key, backed_up=backed_up)


def open_store_of(site: Site, keys: Keys, *, patient: bool = False) -> FileStore:
    """Open the store of a site, made where there is none; see `open_objects_of`."""
    secret = open_secrets_of(site, keys).get("store.key", SECRET_BYTES)
    shared = open_objects_of(site, patient=patient)
    space = open_space_of(site, keys)
    return FileStore(Places(site.data_directory).store, keys, secret, shared, space)


def open_fence_of(site: Site) -> Fence:
    """Return what keeps work and erasure apart, on all machines of a site."""
    server = server_of_site(site)
    if server is None:
        return Fence(Places(site.data_directory).fence)
    return SharedFence(server)


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


def open_vault_of(site: Site, keys: Keys, *, patient: bool = False) -> Vault:
    """Open the vault of a site; see `open_objects_of`."""
    folder = Places(site.data_directory).vault
    shared = open_objects_of(site, patient=patient)
    return Vault(folder, keys) if shared is None else SharedVault(shared, folder, keys)


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
    anchor = open_objects_of(site) or places.anchor
    books = Books(index.database, key, anchor, check=check)
    return Access(site=site, index=index, books=books, audit=audit)


def open_tls_of(site: Site) -> TlsIdentity | None:
    """Return what destinations know this side by; None: no ``[tls]`` table."""
    from gateway.tls.identity import TlsIdentity

    return None if site.tls is None else TlsIdentity(site.tls, _reader(site))


def _reader(site: Site) -> Callable[[str], bytes]:
    return partial(read_secret, base_directory=site.data_directory)
