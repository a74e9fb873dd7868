from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from gateway.store.database import Database
from gateway.store.index import FindKeys, Index, Level, open_index, timestamp
from gateway.store.migrations.versions.v0002_treatments import ATTRIBUTES
from gateway.store.rows import NewInstance, NewProtected, SeriesKey
from gateway.store.schema import instances, metadata, protected
from gateway.store.upgrade import SCRIPTS
from tests.gateway.databases import Place
from tests.gateway.stored import INDEX_KEY

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def new(number: int = 1, **changes: object) -> NewInstance:
    base = NewInstance(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=f"1.2.3.{number}",
        study_instance_uid="1.5",
        series_instance_uid="1.6",
        sha256=f"{number:064x}",
        size_bytes=1000,
        path=f"originals/{number}.dcm",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae="MODALITY",
        called_ae="MIAD-GATEWAY",
        peer_address="127.0.0.1",
        received_at=timestamp(NOON),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def index(place: Place) -> Iterator[Index]:
    opened = place.open()
    yield opened
    opened.close()


def protected_of(instance_id: int, **changes: object) -> NewProtected:
    base = NewProtected(
        instance_id=instance_id,
        sop_instance_uid=f"2.25.{instance_id}",
        series_instance_uid="2.25.600",
        study_instance_uid="2.25.500",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path="protected/x.dcm",
        sha256="f" * 64,
        report={"frames": []},
    )
    return replace(base, **changes)  # type: ignore[arg-type]


# Opening


@pytest.mark.usefixtures("empty")
def test_the_migrations_make_the_tables_of_the_schema(index: Index) -> None:
    with index.database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == "0006"


def test_the_migrations_run_from_anywhere(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from gateway.store.index import open_index; "
        "open_index(Path('index.sqlite'), b'i' * 32).close()"
    )
    path = [str(Path(__file__).parents[2])]
    subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"import sys; sys.path[:0]={path}; {code}",
        ],
        cwd=tmp_path,
        check=True,
    )
    assert (tmp_path / "index.sqlite").stat().st_size > 0


@pytest.mark.usefixtures("empty")
def test_processes_that_open_a_new_index_at_once_all_succeed(place: Place) -> None:
    with ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: place.open(), range(6)))
    for number, one in enumerate(opened):
        assert one.add_instance(new(number)) == "stored"
        one.close()


def test_what_is_committed_survives_reopening(place: Place) -> None:
    first = place.open()
    first.add_instance(new())
    first.close()
    second = place.open()
    known = second.instance("1.2.3.1")
    second.close()
    assert known is not None
    assert (known.state, known.revision_id) == ("received", None)


def test_sqlite_is_durable_at_every_commit(tmp_path: Path) -> None:
    index = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    with index.database.read() as connection:
        settings = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    index.close()
    assert settings == ["wal", 2, 1]


# Received objects


def test_the_same_bytes_are_a_duplicate_and_others_a_conflict(index: Index) -> None:
    assert index.add_instance(new()) == "stored"
    assert index.add_instance(new()) == "duplicate"
    assert index.add_instance(new(sha256="a" * 64)) == "conflict"
    implicit = new(transfer_syntax_uid="1.2.840.10008.1.2")
    assert index.add_instance(implicit) == "conflict"
    known = index.instance("1.2.3.1")
    assert known is not None
    assert known.sha256 == new().sha256


def test_a_conflict_is_recorded_once(index: Index) -> None:
    index.add_instance(new())
    other = new(sha256="a" * 64, path="conflicts/a.dcm")
    assert index.add_conflict(other)
    assert not index.add_conflict(other)
    (conflict,) = index.conflicts_of("1.2.3.1")
    assert (conflict.sha256, conflict.path) == ("a" * 64, "conflicts/a.dcm")


def test_a_row_that_breaks_the_schema_is_an_error_not_a_duplicate(
    index: Index,
) -> None:
    with pytest.raises(IntegrityError):
        index.add_instance(new(study_instance_uid=None))


def test_many_threads_add_at_once_and_one_of_the_same_uid_wins(index: Index) -> None:
    with ThreadPoolExecutor(12) as pool:
        outcomes = list(
            pool.map(
                lambda n: index.add_instance(new(n % 10, sha256=f"{n // 20:064x}")),
                range(40),
            )
        )
    assert outcomes.count("stored") == 10
    assert outcomes.count("duplicate") + outcomes.count("conflict") == 30


def test_two_processes_write_at_once_without_losing_a_row(place: Place) -> None:
    place.open().close()
    code = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from gateway.store.index import Index
from tests.gateway.test_index import new
start = int(sys.argv[1])
index = {place.opened_in_code}
for number in range(start, start + 50):
    assert index.add_instance(new(number)) == "stored"
index.close()
"""
    children = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", code, str(start)])
        for start in (100, 200)
    ]
    assert [child.wait(120) for child in children] == [0, 0]
    index = place.open()
    assert len(index.instances_in_state("received")) == 100
    index.close()


def test_a_held_instance_says_why(index: Index) -> None:
    index.add_instance(new())
    index.hold_instance(1, "no-pixel-data", "The object has no pixel data")
    held = index.instance_by_id(1)
    assert held is not None
    assert (held.state, held.reason) == ("held", "no-pixel-data")
    assert held.message == "The object has no pixel data"
    assert index.instances_in_state("held") == [held]


# Completion


def test_a_series_is_idle_when_its_newest_object_is_old_enough(index: Index) -> None:
    index.add_instance(new(1))
    index.add_instance(new(2, received_at=timestamp(NOON + timedelta(seconds=30))))
    key = SeriesKey(
        study_instance_uid="1.5", series_instance_uid="1.6", calling_ae="MODALITY"
    )
    assert index.open_series() == [key]

    def idle_after(seconds: float, **by_ae: float) -> list[SeriesKey]:
        return index.idle_series(NOON + timedelta(seconds=seconds), by_ae, 60.0)

    assert idle_after(89.9) == []
    assert idle_after(90.0) == [key]
    assert idle_after(45.0, MODALITY=10.0) == [key]
    assert idle_after(45.0, OTHER=10.0) == []


def test_a_clock_set_back_keeps_no_series_open(index: Index) -> None:
    """Objects from before the clock was set back seem to come in the future."""
    index.add_instance(new())

    def idle_before(seconds: float) -> list[SeriesKey]:
        return index.idle_series(NOON - timedelta(seconds=seconds), {}, 60.0)

    assert idle_before(86_400.0) == index.open_series()
    # The clocks of two machines are never quite the same.
    assert idle_before(30.0) == []


def test_late_objects_form_the_next_revision(index: Index) -> None:
    index.add_instance(new(1))
    index.add_instance(new(2))
    first = index.close_series("1.6", "MODALITY", NOON)
    assert first is not None
    assert (first.revision, first.state) == (1, "complete")
    assert index.close_series("1.6", "MODALITY", NOON) is None
    assert index.open_series() == []
    index.add_instance(new(3))
    second = index.close_series("1.6", "MODALITY", NOON)
    assert second is not None
    assert second.revision == 2
    uids = [
        [i.sop_instance_uid for i in index.instances_of_revision(r.id)]
        for r in index.revisions("complete")
    ]
    assert uids == [["1.2.3.1", "1.2.3.2"], ["1.2.3.3"]]


def test_sources_and_studies_of_one_series_uid_are_not_mixed(index: Index) -> None:
    index.add_instance(new(1))
    index.add_instance(new(2, calling_ae="OTHER"))
    index.add_instance(new(3, study_instance_uid="1.9"))
    closed = []
    while revision := index.close_series("1.6", "MODALITY", NOON):
        (instance,) = index.instances_of_revision(revision.id)
        closed.append((revision.study_instance_uid, instance.sop_instance_uid))
    assert closed == [("1.5", "1.2.3.1"), ("1.9", "1.2.3.3")]
    (rest,) = index.open_series()
    assert rest.calling_ae == "OTHER"


def test_a_series_closed_by_many_at_once_is_closed_once(index: Index) -> None:
    for number in range(5):
        index.add_instance(new(number))
    with ThreadPoolExecutor(8) as pool:
        closed = list(
            pool.map(lambda _: index.close_series("1.6", "MODALITY", NOON), range(8))
        )
    (revision,) = [r for r in closed if r is not None]
    assert len(index.instances_of_revision(revision.id)) == 5


def test_a_revision_moves_on_and_keeps_its_decision(index: Index) -> None:
    index.add_instance(new())
    revision = index.close_series("1.6", "MODALITY", NOON)
    assert revision is not None
    decision = [{"rule": "ct", "destinations": ["out"], "protect": True}]
    index.set_revision(revision.id, "routed", decision=decision)
    index.set_revision(revision.id, "held", "no room")
    (held,) = index.revisions("held")
    assert (held.reason, held.decision) == ("no room", decision)
    assert index.revisions("routed") == []
    assert index.revision(revision.id) == held
    assert index.revision(99) is None


# Protected objects and deliveries


def test_a_protected_object_is_recorded_once(index: Index) -> None:
    index.add_instance(new())
    index.add_protected(protected_of(1))
    index.add_protected(protected_of(1, path="protected/other.dcm"))
    found = index.protected_of(1)
    assert found is not None
    assert found == index.protected_by_uid("2.25.1")
    assert (found.path, found.report) == ("protected/x.dcm", {"frames": []})
    known = index.instance_by_id(1)
    assert known is not None
    assert known.state == "protected"


def test_parts_and_treatments_stand_side_by_side(index: Index) -> None:
    index.add_instance(new())
    index.add_protected(protected_of(1))
    parts = [
        replace(protected_of(1), treatment="custody=key", part=n, sop_instance_uid=uid)
        for n, uid in enumerate(("2.25.7", "2.25.8"))
    ]
    index.add_protected(*parts)
    index.add_protected(*parts)
    found = index.protected_parts(1, "custody=key")
    assert [row.sop_instance_uid for row in found] == ["2.25.7", "2.25.8"]
    assert [row.treatment for row in index.protected_parts(1, "")] == [""]
    first = index.protected_of(1)
    assert first is not None
    assert first.treatment == ""


def test_what_a_rule_drops_is_kept_and_can_be_seen(index: Index) -> None:
    index.add_instance(new())
    index.drop_instance(1, "a rule drops it")
    dropped = index.instance_by_id(1)
    assert dropped is not None
    assert (dropped.state, dropped.reason) == ("dropped", "dropped-by-rule")
    assert index.counts()["instances"] == {"dropped": 1}


def test_revisions_that_wait_for_something_in_a_study(index: Index) -> None:
    for number, study in enumerate(("1.5.1", "1.5.1", "1.5.2"), start=1):
        index.add_instance(
            new(number, study_instance_uid=study, series_instance_uid=f"1.6.{number}")
        )
        revision = index.close_series(f"1.6.{number}", "MODALITY", NOON)
        assert revision is not None
        reason = "unresolved-references" if number != 2 else "too-small"
        index.hold_instance(number, reason, "")
    assert index.revisions_held_for("1.5.1", "unresolved-references") == [1]


def test_an_index_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """What was protected before treatments is plain, with attributes of its own."""
    url = f"sqlite:///{tmp_path / 'index.sqlite'}"
    old = Database(url, INDEX_KEY)
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    with old.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        row = asdict(new(1, series_description="Axial " + "T1 " * 19))
        connection.execute(insert(instances).values(**row, state="protected"))
        names = [c.name for c in protected.c if c.name not in {"id", "created_at"}]
        kept = {k: v for k, v in asdict(protected_of(1)).items() if k in names}
        first = {k: v for k, v in kept.items() if k not in NEW_COLUMNS}
        columns = ", ".join((*first, "created_at"))
        marks = ", ".join(f":{name}" for name in (*first, "created_at"))
        first |= {"report": "{}", "created_at": timestamp(NOON)}
        connection.execute(
            text(f"INSERT INTO protected ({columns}) VALUES ({marks})"), first
        )
    old.close()

    index = Index(url, INDEX_KEY)

    (row_now,) = index.protected_parts(1, "")
    known = index.instance_by_id(1)
    assert known is not None
    assert (row_now.part, row_now.patient_name) == (0, known.patient_name)
    assert row_now.series_description.endswith("[MIAD-MARK]")
    assert len(row_now.series_description) <= 64
    index.close()


NEW_COLUMNS = {"treatment", "part", *ATTRIBUTES}


def test_a_protected_object_without_source_is_refused(index: Index) -> None:
    with pytest.raises(IntegrityError):
        index.add_protected(protected_of(7))
    assert index.protected_by_uid("2.25.7") is None


def test_deliveries_are_planned_once_and_counted(place: Place) -> None:
    index = place.open(lambda: NOON)
    index.add_instance(new(1))
    index.add_instance(new(2))
    revision = index.close_series("1.6", "MODALITY", NOON)
    assert revision is not None
    index.plan_deliveries(revision.id, "out", True, [1, 1])
    index.plan_deliveries(revision.id, "out", True, [1, 2])
    index.plan_deliveries(revision.id, "archive", False, [1])
    first, second = index.pending_deliveries(revision.id, "out")
    index.record_delivery(first.id, "pending", None, "not reached")
    index.record_delivery(first.id, "sent", 0, "")
    index.record_delivery(second.id, "refused", 0xA900, "no")
    assert index.pending_deliveries(revision.id, "out") == []
    assert len(index.pending_deliveries(revision.id, "archive")) == 1
    index.plan_deliveries(revision.id, "out", True, [1, 2], treatment="uids=map")
    sent, refused, _ = index.deliveries_of(revision.id)
    assert (sent.treatment, refused.treatment) == ("", "uids=map")
    assert (sent.attempts, sent.status, sent.sent_at) == (2, 0, timestamp(NOON))
    assert (refused.status, refused.last_error, refused.sent_at) == (0xA900, "no", None)
    index.close()


# Queries: the database's side (the network's is in test_find)


@pytest.fixture
def filled(index: Index) -> Index:
    for number, changes in enumerate(
        [
            {"patient_name": "Doe^Jane", "patient_id": "A_1", "modality": "CT"},
            {"patient_name": "Yamada^Tarou=山田^太郎", "patient_id": "AX1"},
            {"patient_name": "O%Neil", "patient_id": "a_1", "study_date": "20200131"},
            {"study_date": "20200201", "study_time": "101530", "modality": "MR"},
        ],
        1,
    ):
        study = {"study_instance_uid": f"1.5.{number}"}
        index.add_instance(new(number, **study, **changes))
    index.add_protected(protected_of(1))
    return index


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({}, [1, 2, 3, 4]),
        ({"PatientName": ["doe^*"]}, [1]),
        ({"PatientName": ["DOE^JANE"]}, [1]),
        ({"PatientName": ["山田^太郎"]}, [2]),
        ({"PatientName": ["yamada*"]}, [2]),
        ({"PatientName": ["O%*"]}, [3]),
        ({"PatientName": ["Doe"]}, []),
        ({"PatientID": ["A_1"]}, [1]),
        ({"PatientID": ["A?1"]}, [1, 2]),
        ({"PatientID": ["A_*"]}, [1]),
        ({"StudyDate": ["20200131"]}, [3]),
        ({"StudyDate": ["20200101-20200131"]}, [3]),
        ({"StudyDate": ["20200201-"]}, [4]),
        ({"StudyDate": ["-20200131"]}, [3]),
        ({"StudyTime": ["1015"]}, [4]),
        ({"StudyTime": ["1000-1015"]}, [4]),
        ({"StudyTime": ["1016-"]}, []),
        ({"ModalitiesInStudy": ["MR"]}, [4]),
        ({"StudyInstanceUID": ["1.5.1", "1.5.3"]}, [1, 3]),
        ({"StudyInstanceUID": ["2.25.500"]}, [1]),
        ({"SeriesInstanceUID": ["2.25.600"]}, [1]),
        ({"SOPInstanceUID": ["2.25.1", "1.2.3.2"]}, [1, 2]),
        ({"SOPInstanceUID": ["1.2.3.1"], "PatientID": ["B"]}, []),
    ],
)
def test_keys_match_as_the_standard_says(
    filled: Index, keys: dict[str, list[str]], found: list[int]
) -> None:
    rows = filled.find_originals(FindKeys(keys), Level.IMAGE)
    assert [row["SOPInstanceUID"] for row in rows] == [f"1.2.3.{n}" for n in found]
    ids = [instance.id for instance in filled.originals_matching(FindKeys(keys))]
    assert sorted(ids) == found


def test_a_study_is_counted_whole_though_one_object_matches(index: Index) -> None:
    index.add_instance(new(1, modality="CT", series_instance_uid="1.6.1"))
    index.add_instance(new(2, modality="SR", series_instance_uid="1.6.2"))
    index.add_instance(new(3, modality="SR", series_instance_uid="1.6.2"))
    keys = FindKeys({"ModalitiesInStudy": ["CT"]})
    (study,) = index.find_originals(keys, Level.STUDY)
    assert study["ModalitiesInStudy"] == ["CT", "SR"]
    assert study["NumberOfStudyRelatedSeries"] == 2
    assert study["NumberOfStudyRelatedInstances"] == 3
    series = index.find_originals(FindKeys({}), Level.SERIES)
    assert [row["NumberOfSeriesRelatedInstances"] for row in series] == [1, 2]


def test_a_patient_without_id_is_not_listed_as_one(index: Index) -> None:
    index.add_instance(new(1, patient_id=""))
    index.add_instance(new(2, patient_id="P"))
    (patient,) = index.find_originals(FindKeys({}), Level.PATIENT)
    assert patient["PatientID"] == "P"
    assert patient["NumberOfPatientRelatedInstances"] == 1
