"""What retention deletes and what it keeps, step by step and after a crash."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from typing_extensions import override

from config.schema import Disk, Retention
from gateway.audit.log import AuditLog
from gateway.dicom.restore import recovery_of, restorer
from gateway.errors import GatewayError, KeyErased, ObjectGone, RecoveryRefused
from gateway.sealing.master import LocalMasterKey
from gateway.stages.retain import Keeper, Summary
from gateway.store.deposit import Deposit, Source
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index, timestamp
from gateway.store.rows import Attributes, Instance, Protected
from gateway.store.schema import deliveries, instances, tombstones
from gateway.store.space import Space, Volume
from gateway.vault.vault import Vault
from tests.gateway.outside import receive
from tests.gateway.seeding import protect
from tests.gateway.stored import INDEX_KEY, MASTER_KEY, STORE_SECRET

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FILES = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm")


def draft(folder: Path, name: str) -> Path:
    """As a kill two hours ago left it."""
    path = folder / f".{name}.miad.{'0' * 16}.tmp"
    path.write_bytes(b"half")
    os.utime(path, (path.stat().st_mtime - 7200,) * 2)
    return path


class Rounds(threading.Event):
    """Does something after each round; after the last they stop."""

    def __init__(self, *after: Callable[[], object]) -> None:
        super().__init__()
        self._after = list(after)

    @override
    def wait(self, timeout: float | None = None) -> bool:
        self._after.pop(0)()
        if not self._after:
            self.set()
        return self.is_set()


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Case:
    index: Index
    store: FileStore
    vault: Vault
    audit: AuditLog
    free: int = 1 << 50

    def keeper(
        self, committing: frozenset[str] = frozenset(), **retention: Any
    ) -> Keeper:
        return Keeper(
            index=self.index,
            store=self.store,
            vault=self.vault,
            audit=self.audit,
            settings=Retention.model_validate(retention),
            committing=committing,
            recovers=recovery_of(self.store, self.vault),
            clock=lambda: NOW,
        )

    def retain(self, **retention: Any) -> Summary:
        return self.keeper(**retention).retain(NOW, 60.0)

    def put(
        self, days: int, name: str = "CT_small.dcm", *, state: str = "sent"
    ) -> Instance:
        """An object received and sent so many days ago."""
        then = timestamp(NOW - timedelta(days=days))
        series = f"1.2.3.{name.encode().hex()}"[:60]
        row = receive(self.store, self.index, name, series_instance_uid=series)
        with self.index.database.write() as connection:
            own = instances.c.id == row.id
            connection.execute(update(instances).where(own).values(received_at=then))
        revision = self.index.close_series(series, "MODALITY", NOW)
        assert revision is not None
        self.index.plan_deliveries(revision.id, "out", True, [row.id])
        with self.index.database.write() as connection:
            own = deliveries.c.instance_id == row.id
            values = {"state": state, "sent_at": then}
            connection.execute(update(deliveries).where(own).values(**values))
        self.index.set_revision(revision.id, "delivered")
        return self.now(row)

    def protected(self, row: Instance) -> Protected:
        return protect(row, self.store, self.index, self.vault)

    def now(self, row: Instance) -> Instance:
        found = self.index.instance_by_id(row.id)
        assert found is not None
        return found

    def stones(self) -> list[tuple[str, str, str]]:
        chosen = select(tombstones.c.kind, tombstones.c.uid, tombstones.c.why)
        with self.index.database.read() as connection:
            return [tuple(row) for row in connection.execute(chosen)]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    keys = LocalMasterKey(MASTER_KEY)
    index = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    made = Case(
        index,
        FileStore(tmp_path / "store", keys, STORE_SECRET),
        Vault(tmp_path / "vault", keys),
        AuditLog(tmp_path / "audit.jsonl"),
    )
    space = Space(
        Disk(),
        [tmp_path],
        tmp_path / "full",
        look=lambda _place: Volume(made.free, 1 << 50),
        clock=iter(range(10_000)).__next__,
    )
    made.store = FileStore(tmp_path / "store", keys, STORE_SECRET, space=space)
    yield made
    index.close()


def test_nothing_is_deleted_unless_it_is_said(case: Case) -> None:
    row = case.put(4000)
    case.free = 0
    assert case.retain() == Summary()
    assert case.store.exists(row.path)


def test_an_original_goes_by_age_and_still_comes_back(case: Case) -> None:
    old, young = case.put(31), case.put(29, "MR_small.dcm")
    made = case.protected(old)
    case.protected(young)

    done = case.retain(originals={"days": 30})

    assert (done.originals, done.protected, done.keys) == (1, 0, 0)
    assert done.octets > 30_000
    gone = case.now(old)
    assert (gone.path, gone.gone_at) == ("", timestamp(NOW))
    assert not case.store.exists(old.path)
    assert case.store.exists(young.path)
    back = restorer(case.store, case.vault)(gone, made)
    assert len(back) == old.size_bytes
    assert case.stones() == [("original", old.sop_instance_uid, "age")]
    (line,) = [e for e in case.audit.entries() if e["action"] == "retention"]
    assert (line["outcome"], line["originals"], line["held"]) == ("success", 1, 0)


@pytest.mark.parametrize("state", ["pending", "refused", "held", "uncommitted"])
def test_what_is_owed_is_kept_for_ever(case: Case, state: str) -> None:
    row = case.put(4000, state=state)
    case.protected(row)
    everything = {"days": 1}
    done = case.retain(originals=everything, protected=everything, keys=everything)
    assert done == Summary()


def test_sent_is_not_enough_where_a_destination_commits(case: Case) -> None:
    row = case.put(4000)
    keep = {"originals": {"days": 1}}
    strict = frozenset({"out"})
    assert case.retain(committing=strict, **keep) == Summary()
    with case.index.database.write() as connection:
        connection.execute(update(deliveries).values(state="committed"))
    assert case.retain(committing=strict, **keep).originals == 1
    assert case.index.instance(row.sop_instance_uid) is None


def test_a_remark_of_the_destination_is_no_debt(case: Case) -> None:
    row = case.put(4000)
    with case.index.database.write() as connection:
        connection.execute(update(deliveries).values(warned=True))
    assert case.retain(originals={"days": 1}).originals == 1
    assert not case.store.exists(row.path)


def test_a_revision_under_way_is_kept(case: Case) -> None:
    row = case.put(4000)
    assert row.revision_id is not None
    for state in ("complete", "routed", "held"):
        case.index.set_revision(row.revision_id, state)
        assert case.retain(originals={"days": 1}) == Summary()


def test_days_count_from_what_was_sent_last(case: Case) -> None:
    case.put(4000)
    with case.index.database.write() as connection:
        late = timestamp(NOW - timedelta(days=5))
        connection.execute(update(deliveries).values(sent_at=late))
    assert case.retain(originals={"days": 10}) == Summary()
    assert case.retain(originals={"days": 4}).originals == 1


def test_held_objects_go_only_when_it_is_said(case: Case) -> None:
    row = case.put(100)
    assert row.revision_id is not None
    case.index.hold_instance(row.id, "too-small", "")
    case.index.set_revision(row.revision_id, "held")
    assert case.retain(originals={"days": 1}) == Summary()
    assert case.retain(held_days=101) == Summary()
    assert case.retain(held_days=99).held == 1
    assert not case.store.exists(row.path)
    assert case.stones() == [("original", row.sop_instance_uid, "age-held")]


def test_an_original_that_does_not_come_back_stays(case: Case) -> None:
    """The protected object was damaged on the disk: the original is the last copy."""
    row = case.put(100)
    made = case.protected(row)
    path = case.store.path_of(made.path)
    octets = bytearray(path.read_bytes())
    octets[-100] ^= 1
    path.write_bytes(octets)

    done = case.retain(originals={"days": 1})

    assert (done.originals, done.kept) == (0, 1)
    assert case.store.exists(row.path)
    (line,) = [e for e in case.audit.entries() if e["action"] == "retention"]
    assert line["outcome"] == "failure"


def test_a_protected_object_stays_as_long_as_its_key_needs_it(case: Case) -> None:
    row = case.put(100)
    made = case.protected(row)
    case.retain(originals={"days": 1})

    assert case.retain(protected={"days": 1}) == Summary()  # keys for ever
    done = case.retain(protected={"days": 1}, keys={"days": 200})
    assert done == Summary()
    done = case.retain(protected={"days": 1}, keys={"days": 99})
    assert (done.protected, done.keys) == (1, 1)
    with pytest.raises(KeyErased):
        case.vault.get(made.sop_instance_uid)
    assert case.index.instance(row.sop_instance_uid) is None
    kinds = [kind for kind, _, _ in case.stones()]
    assert kinds == ["original", "protected", "key"]


def test_a_key_outlives_its_protected_object(case: Case) -> None:
    """Whoever brings the protected object back from outside has it opened."""
    row = case.put(100)
    made = case.protected(row)
    done = case.retain(protected={"days": 1})
    assert (done.protected, done.keys) == (1, 0)
    case.vault.get(made.sop_instance_uid)
    assert case.retain(keys={"days": 200}) == Summary()
    assert case.retain(keys={"days": 99}).keys == 1
    assert case.store.exists(row.path)


def test_every_part_goes_before_the_key(case: Case) -> None:
    row = case.put(100)
    made = case.protected(row)
    keeper = case.keeper(keys={"days": 1})
    assert keeper.retain(NOW, 60.0) == Summary()
    case.vault.get(made.sop_instance_uid)


def test_room_is_made_oldest_first_until_there_is_enough(case: Case) -> None:
    rows = [case.put(90 - n, name) for n, name in enumerate(FILES)]
    case.free = 19 << 30
    keeper = case.keeper(originals={"days": 1000, "spare_days": 10})
    destroy = case.store.destroy

    def frees(relative: str) -> None:
        destroy(relative)
        case.free += 1 << 30

    object.__setattr__(case.store, "destroy", frees)

    assert keeper.retain(NOW, 60.0).originals == 1

    assert case.index.instance(rows[0].sop_instance_uid) is None
    assert [case.store.exists(row.path) for row in rows[1:]] == [True, True]
    assert case.stones() == [("original", rows[0].sop_instance_uid, "space")]


def test_room_is_not_made_of_what_is_too_young(case: Case) -> None:
    case.put(9)
    case.free = 0
    assert case.retain(originals={"spare_days": 10}) == Summary()


@pytest.mark.parametrize("kind", ["original", "protected"])
@pytest.mark.parametrize("step", ["destroy", "end"])
def test_a_crash_in_between_is_finished(
    case: Case, monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    row = case.put(100)
    made = case.protected(row)
    policy = {f"{kind}s" if kind == "original" else kind: {"days": 1}}

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        if step == "destroy":
            patched.setattr(case.store, "destroy", dies)
        else:
            patched.setattr("gateway.store.retention.Retention.end", dies)
        with pytest.raises(Killed):
            case.retain(**policy)

    assert case.keeper().finish_halves() == 1

    path = row.path if kind == "original" else made.path
    assert not case.store.exists(path)
    assert case.keeper().finish_halves() == 0
    assert len(case.stones()) == 1


def test_a_crash_between_key_and_row_is_finished(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = case.put(100)
    case.protected(row)
    every = {name: {"days": 1} for name in ("originals", "protected", "keys")}

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("gateway.store.retention.Retention.end_key", dies)
        with pytest.raises(Killed):
            case.retain(**every)

    assert case.retain(**every).keys == 1
    assert case.index.instance(row.sop_instance_uid) is None


def come_again(case: Case, row: Instance, octets: bytes) -> str:
    meta = row_meta(row)
    deposit = Deposit(case.store, case.index)
    source = Source(
        calling_ae="MODALITY",
        called_ae="GATEWAY",
        peer_address="127.0.0.1",
        received_at=timestamp(NOW),
    )
    attributes = Attributes(
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
    )
    with case.store.begin_original(meta) as writer:
        writer.write(octets)
        return deposit.keep(writer, attributes, source)


def row_meta(row: Instance) -> Any:
    from gateway.store.part10 import FileMeta

    return FileMeta(
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
    )


def test_what_comes_again_is_stored_anew_and_not_sent_again(case: Case) -> None:
    row = case.put(100)
    case.protected(row)
    octets, _ = case.store.read_data_set(row.path)
    case.retain(originals={"days": 1})

    assert come_again(case, row, octets) == "stored"

    back = case.now(row)
    assert (back.gone_at, back.revision_id) == (None, row.revision_id)
    assert case.store.read_data_set(back.path)[0] == octets
    assert case.index.open_series() == []
    assert come_again(case, row, octets) == "duplicate"


def test_what_comes_while_it_goes_is_not_destroyed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = case.put(100)
    case.protected(row)
    octets, _ = case.store.read_data_set(row.path)

    def dies(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(case.store, "destroy", dies)
        with pytest.raises(Killed):
            case.retain(originals={"days": 1})
    assert come_again(case, row, octets) == "stored"

    assert case.keeper().finish_halves() == 0
    assert case.store.read_data_set(case.now(row).path)[0] == octets


def test_what_was_passed_on_as_it_is_comes_as_new(case: Case) -> None:
    """Nothing is left of it but its tombstone."""
    row = case.put(100)
    octets, _ = case.store.read_data_set(row.path)
    case.retain(originals={"days": 1})
    assert case.index.revisions() == []
    assert come_again(case, row, octets) == "stored"
    (again,) = case.index.open_series()
    assert again.series_instance_uid == row.series_instance_uid
    back = case.index.instance(row.sop_instance_uid)
    assert back is not None
    assert back.id > row.id  # jobs go by ids: none is given twice


def test_only_so_many_at_once(case: Case) -> None:
    for number, name in enumerate(FILES):
        case.put(50 - number, name)
    assert case.retain(originals={"days": 1}, most_at_once=2).originals == 2
    assert case.keeper(originals={"days": 1}).retain(NOW, 0.0) == Summary()


def test_what_retrieval_says(case: Case) -> None:
    from gateway.dicom.retrieve_holdings import Originals, ProtectedObjects

    row = case.put(100)
    made = case.protected(row)
    restore = restorer(case.store, case.vault)
    originals = Originals(case.store, case.index, restore, None)  # type: ignore[arg-type]
    given = ProtectedObjects(case.store, case.index, lambda one: one)
    case.retain(originals={"days": 1})
    assert len(originals._load(case.now(row))) == row.size_bytes
    case.retain(protected={"days": 1}, keys={"days": 1, "spare_days": None})
    assert case.index.instance(row.sop_instance_uid) is None
    other = case.put(100, "MR_small.dcm")
    case.protected(other)
    case.retain(protected={"days": 1})
    case.retain(originals={"days": 1})
    with pytest.raises(ObjectGone, match="retention deleted it on 2026-06-01"):
        originals._load(case.now(other))
    gone = case.index.protected_of(other.id)
    assert gone is not None
    with pytest.raises(ObjectGone):
        given._load(gone)
    assert made.sop_instance_uid != gone.sop_instance_uid


def test_recovery_is_tried_with_the_right_record(case: Case) -> None:
    row = case.put(100)
    made = case.protected(row)
    recovers = recovery_of(case.store, case.vault)
    recovers(row, made)
    other = case.put(100, "MR_small.dcm")
    with pytest.raises(RecoveryRefused):
        recovers(other, made)
    assert issubclass(RecoveryRefused, GatewayError)


# What a kill left half written


def test_leftovers_go_at_the_start_and_once_an_hour(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = case.store.root / "protected"
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = draft(folder, "a")

    def next_one() -> None:
        assert not first.exists()
        draft(folder, "b")

    def an_hour_later() -> None:
        assert [path.name[1] for path in folder.glob(".*")] == ["b"]
        now[0] += 3600.0

    def none_left() -> None:
        assert not list(folder.glob(".*"))

    keeper = replace(case.keeper(), folders=(case.store.root,))
    keeper.run(Rounds(next_one, an_hour_later, none_left))


def test_what_is_due_goes_where_leftovers_cannot_be_looked_for(case: Case) -> None:
    instance = case.put(100)
    no_folder = case.store.root / "file"
    no_folder.write_bytes(b"")
    keeper = replace(case.keeper(originals={"days": 30}), folders=(no_folder,))

    def gone() -> None:
        assert not case.store.exists(instance.path)

    keeper.run(Rounds(gone))
