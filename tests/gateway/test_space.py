"""Marks of free room: what is refused when, and who tells of it."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import pytest

from config.schema import Disk
from gateway.dicom.handlers import Request
from gateway.dicom.status import StoreStatus
from gateway.errors import StoreFull
from gateway.sealing.master import LocalMasterKey
from gateway.stages.waiting import Waiting
from gateway.store.files import FileStore
from gateway.store.part10 import FileMeta
from gateway.store.space import Marks, Room, Space, Volume, volume_of
from gateway.web.storing import Outcome

GIB = 1 << 30
MIB = 1 << 20
TOTAL = 1000 * GIB


class Bench:
    """A space over a disk and a clock that a test sets."""

    def __init__(self, folder: Path) -> None:
        self.free = 100 * GIB
        self.now = 0.0
        self.looks = 0
        self.told: list[tuple[bool, Room]] = []
        self.folder = folder

    def look(self, _place: Path) -> Volume:
        self.looks += 1
        return Volume(self.free, TOTAL)

    def space(self) -> Space:
        return Space(
            Disk(),
            [self.folder],
            self.folder / "run" / "disk-full",
            told=lambda accepting, room: self.told.append((accepting, room)),
            look=self.look,
            clock=lambda: self.now,
        )

    def later(self, free: int) -> None:
        self.free, self.now = free, self.now + 10.0


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_objects_are_refused_below_the_stop_mark_until_the_resume_mark(
    bench: Bench,
) -> None:
    space = bench.space()
    space.admit()
    bench.later(2 * GIB - 1)
    for _ in range(3):
        with pytest.raises(StoreFull, match="until there is room"):
            space.admit()
    bench.later(3 * GIB - 1)
    with pytest.raises(StoreFull):
        space.admit()
    bench.later(3 * GIB)
    space.admit()
    assert [accepting for accepting, _ in bench.told] == [False, True]


def test_processes_of_a_site_agree_and_one_tells(bench: Bench) -> None:
    first, second = bench.space(), bench.space()
    bench.later(GIB)
    for space in (first, second):
        with pytest.raises(StoreFull):
            space.admit()
    bench.later(2 * GIB + 1)
    late = bench.space()  # started since: it has not seen the mark passed
    for space in (first, second, late):
        with pytest.raises(StoreFull):
            space.admit()
    bench.later(4 * GIB)
    for space in (second, first, late):
        space.admit()
    assert [accepting for accepting, _ in bench.told] == [False, True]


def test_what_is_under_way_ends_at_the_reserve(bench: Bench) -> None:
    """32 objects of 2 GB at once, between two looks at the disk."""
    space = bench.space()
    bench.later(3 * GIB)
    for _ in range(32):
        space.admit()

    def write(octets: int) -> None:
        for _ in range(octets // MIB):
            space.take(MIB)
            bench.free -= MIB

    with pytest.raises(StoreFull):
        write(32 * 2 * GIB)
    assert 512 * MIB <= bench.free < 520 * MIB


def test_octets_between_two_looks_are_counted(bench: Bench) -> None:
    space = bench.space()
    bench.later(512 * MIB + 10 * MIB)
    space.take(9 * MIB)
    with pytest.raises(StoreFull):  # the disk itself was not asked again
        space.take(2 * MIB)
    assert bench.looks == 1


def test_the_disk_is_looked_at_rarely(bench: Bench) -> None:
    space = bench.space()
    for number in range(1000):
        bench.now = number * 1e-3
        space.admit()
        space.take(1000)
    assert bench.looks <= 5


def test_a_small_file_system_has_smaller_marks() -> None:
    marks = Marks.of(Disk(), 400 * MIB)
    assert (marks.reserve, marks.stop) == (10 * MIB, 40 * MIB)
    assert (marks.resume, marks.retain) == (60 * MIB, 100 * MIB)
    large = Marks.of(Disk(), TOTAL)
    assert (large.reserve, large.stop, large.resume) == (GIB // 2, 2 * GIB, 3 * GIB)


def test_a_refusal_of_the_system_holds_for_a_while(bench: Bench) -> None:
    """A quota: what is free does not show it."""
    space = bench.space()
    space.refuse()
    with pytest.raises(StoreFull):
        space.admit()
    bench.now += 6.0
    space.admit()
    assert bench.told == []


def test_work_waits_and_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()

    def pause(_seconds: float) -> None:
        waits.set()
        bench.later(5 * GIB)

    monkeypatch.setattr("gateway.store.space.time.sleep", pause)
    space = bench.space()
    bench.later(GIB)
    space.wait()
    assert waits.is_set()


def test_what_found_no_room_is_made_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills between the look and the write, twice."""

    def pause(_seconds: float) -> None:
        bench.now += 10.0

    monkeypatch.setattr("gateway.store.space.time.sleep", pause)
    tries = []

    def make() -> str:
        tries.append(bench.now)
        if len(tries) < 3:
            raise StoreFull("no room")
        return "made"

    assert Waiting(bench.space()).until_done(make) == "made"
    assert len(tries) == 3
    with pytest.raises(StoreFull):
        Waiting(None).until_done(lambda: FileStore.take(_full(bench), 1))


def _full(bench: Bench) -> FileStore:
    bench.later(0)
    keys = LocalMasterKey(b"m" * 32)
    return FileStore(bench.folder / "store", keys, b"n" * 32, space=bench.space())


def test_the_fullest_file_system_counts(tmp_path: Path) -> None:
    places = [tmp_path / "data", tmp_path / "store"]
    volumes = {"data": Volume(50 * GIB, TOTAL), "store": Volume(GIB, TOTAL)}
    space = Space(
        Disk(),
        places,
        tmp_path / "flag",
        look=lambda place: volumes[place.name],
    )
    room = space.room()
    assert (room.accepting, room.tightest, room.short) == (False, places[1], True)


def test_a_flag_that_cannot_be_made_refuses_all_the_same(bench: Bench) -> None:
    (bench.folder / "run").write_text("no directory")
    space = bench.space()
    bench.later(GIB)
    with pytest.raises(StoreFull):
        space.admit()
    assert bench.told == []


def test_the_machine_is_asked() -> None:
    free, total = volume_of(Path(tempfile.gettempdir()))
    assert 0 < free <= total


def test_nothing_is_left_of_an_object_that_reached_the_reserve(bench: Bench) -> None:
    space = bench.space()
    store = FileStore(
        bench.folder / "store", LocalMasterKey(b"m" * 32), b"n" * 32, space=space
    )
    meta = FileMeta(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid="1.2.3",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
    )
    bench.later(2 * GIB)
    with store.begin_original(meta) as writer:
        writer.write(bytes(1000))
        bench.later(100 * MIB)
        with pytest.raises(StoreFull):
            writer.write(bytes(1000))
        with pytest.raises(StoreFull):
            store.begin_original(meta)
    assert list((store.root / "incoming").iterdir()) == []


def test_stow_says_that_there_is_no_room() -> None:
    """RFC 4918 11.5, and only where nothing was stored."""
    request = Request(1, "1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    failed = [(request, StoreStatus.OUT_OF_RESOURCES)]
    assert Outcome(failed=failed, is_full=True).status == 507
    assert Outcome(failed=failed).status == 409  # too large, not too little room
    assert Outcome(failed=failed, stored=[request], is_full=True).status == 202
