"""What the web server is given."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.access.access import Access
from gateway.audit.log import AuditLog
from gateway.audit.refusals import RefusalLog
from gateway.dicom.listener import Records
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.tls.identity import TlsIdentity
from gateway.web.visitors import Registry


@dataclass(frozen=True, kw_only=True)
class WebParts:
    """What the web server shows and writes to.

    Attributes
    ----------
    store, index, audit
        Objects, rows and the trail.
    records
        Rebuilds originals and checks protected objects.
    access
        Who is known, and who may have what.
    """

    store: FileStore
    index: Index
    audit: AuditLog
    records: Records
    access: Access


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who is known, by what, and where refusals are recorded."""

    registry: Registry
    identity: TlsIdentity
    refusals: RefusalLog
