"""Receiver and web server take the same object in at the same time."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from gateway.dicom.header import read_attributes
from gateway.store.deposit import Deposit, Source
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index
from gateway.store.part10 import FileMeta
from gateway.store.rows import NewInstance
from tests.gateway.scp import encoded, small
from tests.gateway.stored import INDEX_KEY, a_store
from tests.gateway.web_cases import file_of
from tests.waiting import wait_until

ITEM = encoded(small("1.2.3.4"))
SOURCE = Source(
    calling_ae="A", called_ae="B", peer_address="127.0.0.1", received_at="2026"
)


def keep(deposit: Deposit, store: FileStore) -> str:
    assert isinstance(ITEM.data, bytes)
    meta = FileMeta(
        sop_class_uid=ITEM.sop_class_uid,
        sop_instance_uid=ITEM.sop_instance_uid,
        transfer_syntax_uid=ITEM.transfer_syntax_uid,
    )
    attributes = read_attributes(BytesIO(file_of(ITEM)), ITEM.transfer_syntax_uid)
    with store.begin_original(meta) as writer:
        writer.write(ITEM.data)
        return deposit.keep(writer, attributes, SOURCE)


class FullIndex(Index):
    """An index that cannot write a row, as on a full disk."""

    def add_instances(self, new: Callable[[], Sequence[NewInstance]]) -> None:
        new()
        raise OperationalError("insert", {}, OSError("disk full"))

    def add_instance(self, _new: NewInstance) -> str:  # type: ignore[override]
        raise OperationalError("insert", {}, OSError("disk full"))


@pytest.mark.parametrize("other_keeps_it", [True, False])
def test_a_file_is_not_taken_back_under_another_process(
    tmp_path: Path, other_keeps_it: bool
) -> None:
    path = tmp_path / "index.sqlite"
    store = a_store(tmp_path / "store")
    index = open_index(path, INDEX_KEY)
    failing = FullIndex(f"sqlite:///{path}", INDEX_KEY)
    ours, theirs = Deposit(store, failing), Deposit(store, index)
    found: list[BaseException] = []

    def fail() -> None:
        try:
            keep(ours, store)
        except OperationalError as error:
            found.append(error)

    lock = os.open(store.root, os.O_RDONLY)
    # The other process is between its file and its row.
    fcntl.flock(lock, fcntl.LOCK_SH)
    failed = threading.Thread(target=fail)
    failed.start()
    wait_until(lambda: bool(originals(store)))
    if other_keeps_it:
        assert keep(theirs, store) == "stored"
    assert originals(store)
    os.close(lock)
    failed.join(30)
    assert len(found) == 1
    row = index.instance("1.2.3.4")
    assert (row is not None) is other_keeps_it
    assert bool(originals(store)) is other_keeps_it
    if row is not None:
        assert store.read_data_set(row.path)[0] == ITEM.data
    failing.close()
    index.close()


def originals(store: FileStore) -> list[Path]:
    return [p for p in (store.root / "originals").rglob("*") if p.is_file()]
