"""Seal what an earlier build left in clear in a store. Done once, at a start.

Each file is sealed under its new name, read back and compared; then the row of
the index moves on, and only then the clear file goes. Cut off anywhere, it is
done again from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from gateway.errors import InvalidObject, StoredObjectDamaged
from gateway.log import get_logger
from gateway.store.durable import sync_directory
from gateway.store.files import CONFLICTS, ORIGINALS, PROTECTED, FileStore
from gateway.store.index import Index
from gateway.store.part10 import FileMeta, read_head
from gateway.store.stream import CHUNK_BYTES

CLEAR_SUFFIX: Final = ".dcm"
NOTED_EVERY: Final = 1000
NO_META: Final = FileMeta(sop_class_uid="", sop_instance_uid="", transfer_syntax_uid="")
"""Of a file that is damaged so that it does not say what it is."""


def seal_clear_files(store: FileStore, index: Index) -> int:
    """Seal every clear file of a store; nobody else may use it meanwhile.

    Returns
    -------
    int
        How many there were.

    Raises
    ------
    StoreFull
        No room for the largest of them beside itself.
    StoredObjectDamaged
        What was sealed does not come back: the clear file is still there.
    """
    if store.is_shared:
        return 0  # no earlier release stored there
    number = 0
    for number, path in enumerate(_clear_files(store.root), start=1):
        _seal(path, store, index)
        if number % NOTED_EVERY == 0:
            get_logger("store").info("clear-files-sealed", so_far=number)
    if number:
        get_logger("store").info("clear-files-sealed", all=number)
    return number


def _clear_files(root: Path) -> Iterator[Path]:
    for kind in (ORIGINALS, CONFLICTS, PROTECTED):
        yield from sorted((root / kind).rglob(f"*{CLEAR_SUFFIX}"))


def _seal(path: Path, store: FileStore, index: Index) -> None:
    before = path.relative_to(store.root).as_posix()
    with path.open("rb") as clear:
        digest = _digest(clear)
        after = _new_name(before, clear, digest, store)
        clear.seek(0)
        store.seal(after, clear)
    if store.digest(after) != digest:
        raise StoredObjectDamaged(f"The stored file {after} is not what was sealed")
    index.rename_file(before, after)
    path.unlink()
    sync_directory(path.parent)


def _new_name(before: str, clear: BinaryIO, digest: str, store: FileStore) -> str:
    """Return the name of a file, as if it were written now."""
    kind, _, name = before.partition("/")
    if kind == PROTECTED:
        return store.names.protected(Path(name).name.removesuffix(CLEAR_SUFFIX))
    clear.seek(0)
    try:
        meta = read_head(clear)
    except InvalidObject:
        return store.names.original(kind, digest, NO_META)
    return store.names.original(kind, _digest(clear, rest=True), meta)


def _digest(stream: BinaryIO, *, rest: bool = False) -> str:
    """Return the SHA-256 of a file, or of what is left of it."""
    if not rest:
        stream.seek(0)
    digest = hashlib.sha256()
    while piece := stream.read(CHUNK_BYTES):
        digest.update(piece)
    return digest.hexdigest()
