"""A web server on loopback with real certificates, and clients of every kind."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
from pydicom import Dataset

from config.schema import Site
from gateway.access.access import Access
from gateway.audit.log import AuditLog
from gateway.audit.sealer import FieldSealer
from gateway.dicom.header import read_attributes
from gateway.dicom.listener import Records
from gateway.dicom.rawstore import OutboundObject
from gateway.dicom.restore import restorer
from gateway.sealing.master import LocalMasterKey
from gateway.stages.export import verified_part
from gateway.store.deposit import Deposit, Source
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index
from gateway.store.part10 import FileMeta, encode_head
from gateway.store.rows import Instance
from gateway.vault.vault import Vault
from gateway.web.parts import WebParts
from gateway.web.server import RunningWeb, start_web
from tests.gateway.pki_cases import NodeFiles, Pki, client_context
from tests.gateway.scp import access_of
from tests.gateway.stored import INDEX_KEY, MASTER_KEY, a_store

RECEIVED_AT = "2026-01-02T03:04:05.000000Z"
ANY = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass
class Web:
    """A running server and what it reads and writes."""

    site: Site
    pki: Pki
    store: FileStore
    index: Index
    audit: AuditLog
    vault: Vault
    access: Access
    running: RunningWeb

    @property
    def url(self) -> str:
        return f"https://localhost:{self.running.port}"

    def client(self, node: NodeFiles | None, **options: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            verify=client_context(self.pki, node),
            trust_env=False,
            timeout=options.pop("timeout", 30),
            **options,
        )

    def socket(self, node: NodeFiles | None) -> ssl.SSLSocket:
        """A TLS connection without any HTTP on it."""
        plain = socket.create_connection(("127.0.0.1", self.running.port), 30)
        context = client_context(self.pki, node)
        return context.wrap_socket(plain, server_hostname="localhost")

    def audited(self, action: str, outcome: str) -> list[dict[str, Any]]:
        entries = self.audit.entries()
        return [e for e in entries if (e["action"], e["outcome"]) == (action, outcome)]

    def receive(self, item: OutboundObject, calling_ae: str = "MODALITY") -> Instance:
        """Put an object in store and index, as a receiver does."""
        data = item.data
        assert isinstance(data, bytes)
        meta = FileMeta(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            transfer_syntax_uid=item.transfer_syntax_uid,
        )
        source = Source(
            calling_ae=calling_ae,
            called_ae="MIAD-GATEWAY",
            peer_address="127.0.0.1",
            received_at=RECEIVED_AT,
        )
        with self.store.begin_original(meta) as writer:
            writer.write(data)
            with writer.open() as stream:
                attributes = read_attributes(stream, item.transfer_syntax_uid)
            assert Deposit(self.store, self.index).keep(writer, attributes, source)
        found = self.index.instance(item.sop_instance_uid)
        assert found is not None
        return found


def settings(folder: Path, pki: Pki, **tables: Any) -> Site:
    """A site with a modality, a workstation, an archive, and people."""
    web = {"enabled": True, "port": 0, **tables.pop("web", {})}
    nodes = [
        node("modality", pki.modality, "store"),
        node("workstation", pki.workstation, "recover"),
        node("archive", pki.archive, "read"),
    ]
    base: dict[str, Any] = {"data_directory": folder, "tls": pki.tls(), "web": web}
    return Site.model_validate({**base, "nodes": nodes, **tables})


def node(name: str, files: NodeFiles, *roles: str) -> dict[str, Any]:
    return {
        "name": name,
        "ae_titles": [name.upper()],
        "roles": list(roles),
        "certificates": [files.fingerprint],
    }


def person(name: str, files: NodeFiles, *roles: str) -> dict[str, Any]:
    return {"name": name, "roles": list(roles), "certificates": [files.fingerprint]}


@contextmanager
def serving(site: Site, pki: Pki, sealer: FieldSealer | None = None) -> Iterator[Web]:
    folder = site.data_directory
    store = a_store(folder / "store")
    index = open_index(folder / "index.sqlite", INDEX_KEY)
    audit = AuditLog(folder / "audit" / "audit.jsonl", sealer=sealer)
    vault = Vault(folder / "vault", LocalMasterKey(MASTER_KEY))
    records = Records(
        restore=restorer(store, vault),
        verify=lambda row: verified_part(row, store, vault),
    )
    access = access_of(site, index, audit)
    parts = WebParts(
        store=store, index=index, audit=audit, records=records, access=access
    )
    running = start_web(site, parts)
    try:
        yield Web(site, pki, store, index, audit, vault, access, running)
    finally:
        running.stop()
        index.close()


def file_of(item: OutboundObject) -> bytes:
    """An object as a Part 10 file."""
    assert isinstance(item.data, bytes)
    meta = FileMeta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
    )
    return encode_head(meta) + item.data


def stow_body(*files: bytes, boundary: str = "BOUNDARY") -> bytes:
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"\r\n".join(
        [*(head + one for one in files), f"--{boundary}--\r\n".encode()]
    )


STOW = {
    "Content-Type": 'multipart/related; type="application/dicom"; boundary=BOUNDARY'
}


def stow(
    client: httpx.Client, *items: OutboundObject | bytes, path: str = "/studies"
) -> httpx.Response:
    files = [one if isinstance(one, bytes) else file_of(one) for one in items]
    return client.post(path, content=stow_body(*files), headers=STOW)


def parts_of(response: httpx.Response) -> list[bytes]:
    """The parts of a multipart answer, as another implementation reads them."""
    kind = response.headers["content-type"]
    text = f"Content-Type: {kind}\r\nMIME-Version: 1.0\r\n\r\n".encode()
    boundary = kind.partition("boundary=")[2].encode()
    assert response.content.endswith(b"--" + boundary + b"--\r\n")
    assert BytesParser().parsebytes(text + response.content).is_multipart()
    pieces = response.content.split(b"--" + boundary)[1:-1]
    return [p.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for p in pieces]


def datasets(response: httpx.Response) -> list[Dataset]:
    return [Dataset.from_json(one) for one in json.loads(response.content)]
