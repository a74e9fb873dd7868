"""What lies in a store, read and altered by tests."""

from __future__ import annotations

from gateway.store.files import FileStore

INDEX_KEY = b"i" * 32


def content_of(store: FileStore, relative: str) -> bytes:
    """The whole Part 10 file."""
    with store.open(relative) as stream:
        return stream.read()


def put_in_place(store: FileStore, relative: str, content: bytes) -> None:
    """Put other content under the name of a stored file."""
    store.path_of(relative).write_bytes(content)
