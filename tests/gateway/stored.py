"""Stores for tests, and what lies in them, read and altered."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from gateway.sealing.master import LocalMasterKey
from gateway.store.files import FileStore

INDEX_KEY = b"i" * 32
STORE_SECRET = b"s" * 32
MASTER_KEY = b"m" * 32


def a_store(root: Path) -> FileStore:
    """A store under a fixed master key: the same directory opens again."""
    return FileStore(root, LocalMasterKey(MASTER_KEY), STORE_SECRET)


def content_of(store: FileStore, relative: str) -> bytes:
    """The whole Part 10 file."""
    with store.open(relative) as stream:
        return stream.read()


def put_in_place(store: FileStore, relative: str, content: bytes) -> None:
    """Put other content under the name of a stored file, as one with the key can."""
    store.seal(relative, BytesIO(content))


def flip(store: FileStore, relative: str, at: int = -1) -> None:
    """Change one bit of a sealed file on the disk."""
    path = store.path_of(relative)
    octets = bytearray(path.read_bytes())
    octets[at] ^= 1
    path.write_bytes(octets)
