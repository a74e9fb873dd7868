"""The invariants see what must not be: each is broken here on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite

from config.schema import Site
from gateway.app.openers import open_keys_of
from gateway.demo.nodes import data_set_of
from gateway.dicom.header import read_attributes
from gateway.store.deposit import Deposit, Source
from gateway.store.part10 import read_head
from tests.faults import invariants
from tests.faults.invariants import Causes, Parts, Report
from tests.faults.ledger import Journal, Ledger
from tests.faults.nodes import Reception
from tests.faults.objects import Factory, Item
from tests.gateway.seeding import protect


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    site = Site(data_directory=tmp_path / "data")
    open_keys_of(site)
    with invariants.opened(site) as opened:
        yield opened


@pytest.fixture
def item(tmp_path: Path) -> Item:
    (made,) = Factory(tmp_path / "objects", "seed").series("protected", 1)
    return made


def receive(parts: Parts, item: Item) -> None:
    part10 = Path(item.path).read_bytes()
    meta = read_head(BytesIO(part10))
    source = Source(
        calling_ae="MODALITY",
        called_ae="MIAD-GATEWAY",
        peer_address="127.0.0.1",
        received_at="2026-01-02T03:04:05.000000Z",
    )
    with parts.store.begin_original(meta) as writer:
        writer.write(data_set_of(part10))
        with writer.open() as stream:
            attributes = read_attributes(stream, meta.transfer_syntax_uid)
        Deposit(parts.store, parts.index).keep(writer, attributes, source)


def broken(check: object, *arguments: object) -> str:
    report = Report()
    check(*arguments, report)  # type: ignore[operator]
    return "\n".join(report.broken)


def test_what_was_acknowledged_is_there_as_it_was_sent(
    parts: Parts, item: Item
) -> None:
    check = invariants.check_kept
    assert "has no row" in broken(check, parts, [item])
    receive(parts, item)
    assert broken(check, parts, [item]) == ""
    assert "not what was sent" in broken(check, parts, [replace(item, sha256="0")])
    row = parts.index.instance(item.uid)
    assert row is not None
    parts.store.remove(row.path)
    assert item.uid in broken(check, parts, [item])


def reception(path: Path, uid: str, at: float = 1.0, sha256: str = "a") -> Reception:
    return Reception(at=at, uid=uid, sha256=sha256, path=path)


def test_an_original_outside_is_seen(parts: Parts, item: Item, tmp_path: Path) -> None:
    receive(parts, item)
    there = [reception(Path(item.path), item.uid)]
    found = broken(invariants.check_outside, parts, there, [item])
    assert "under the UID of its original" in found
    assert "has the pixels of an original" in found
    assert "does not say that something is burned in" in found
    assert "has no record" in found

    ds = dcmread(item.path)
    ds.SOPInstanceUID = "1.2.3"
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]
    stream = BytesIO()
    dcmwrite(stream, ds)
    other = tmp_path / "other.dcm"
    other.write_bytes(stream.getvalue())
    found = broken(invariants.check_outside, parts, [reception(other, "1.2.3")], [item])
    assert "has the pixels" not in found
    assert "refers to no original" in found


def test_twice_is_seen_unless_something_happened_in_between(parts: Parts) -> None:
    path = Path()
    twice = [reception(path, "1.2.3", at=10.0), reception(path, "1.2.3", at=20.0)]
    check = invariants.check_once
    for causes in (
        Causes(),
        Causes(faults=[5.0]),
        Causes(faults=[21.0]),
        Causes(kills=[5.0, 18.0, 21.0]),
    ):
        report = Report()
        check(parts, twice, causes, report, "outside")
        assert "twice without a reason" in str(report)
    for causes in (Causes(faults=[15.0]), Causes(kills=[12.0])):
        report = Report()
        check(parts, twice, causes, report, "outside")
        assert not report.broken
        assert report.figures["arrived again at outside"] == 1
    differing = [twice[0], replace(twice[1], sha256="b")]
    check(parts, differing, Causes(faults=[15.0]), report, "outside")
    assert "different octets" in str(report)


def test_two_objects_of_one_original_are_seen(parts: Parts, item: Item) -> None:
    receive(parts, item)
    row = parts.index.instance(item.uid)
    assert row is not None
    made = protect(row, parts.store, parts.index, parts.vault)
    report = Report()
    both = [reception(Path(), made.sop_instance_uid), reception(Path(), item.uid)]
    invariants.check_once(parts, both, Causes(), report, "outside")
    assert not report.broken  # what has no protected row is its own origin
    assert report.figures["objects at outside"] == 2


def test_what_does_not_come_back_is_seen(item: Item) -> None:
    check = invariants.check_given_back
    assert "not at all" in broken(check, [], [item])
    back = reception(Path(), item.uid, sha256=item.sha256)
    assert broken(check, [back], [item]) == ""
    other = replace(back, sha256="0")
    assert "otherwise than it was sent" in broken(check, [back, other], [item])


def test_what_is_under_way_or_left_lying_is_seen(parts: Parts, item: Item) -> None:
    receive(parts, item)
    assert "is not closed" in broken(invariants.check_settled, parts)
    assert broken(invariants.check_files, parts) == ""
    root = parts.store.root
    (root / "originals" / "nobody.miad").write_bytes(b"x")
    (root / "protected" / ".half.tmp").write_bytes(b"x")
    found = broken(invariants.check_files, parts)
    assert "originals/nobody.miad is there and no row names it" in found
    assert "store/protected/.half.tmp was left half way" in found
    row = parts.index.instance(item.uid)
    assert row is not None
    parts.store.remove(row.path)
    assert "which is not there" in broken(invariants.check_files, parts)


def test_a_journal_goes_on_after_any_end(tmp_path: Path, item: Item) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    ledger = Ledger(journal)
    ledger.made([item])
    assert ledger.open() == [item]
    ledger.acknowledged(item.uid)
    with journal.path.open("a") as stream:
        stream.write('{"event": "cut o')
    again = Ledger(Journal(journal.path))
    assert again.kept() == [item]
    assert again.open() == []
