"""Which originals grants admit, against a model that decides row by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select
from sqlalchemy.dialects import postgresql

from config.load import load
from gateway.access.access import Access
from gateway.access.grants import grant_of
from gateway.errors import ConfigurationError, GrantRefused
from gateway.route.conditions import ConditionError
from gateway.route.granting import KEYWORDS, compile_grant
from gateway.route.rules import check_conditions
from gateway.store.find import FindKeys, Level
from gateway.store.index import Index
from gateway.store.many import one_of
from gateway.store.rows import NewInstance
from gateway.store.schema import instances
from tests.gateway.access_cases import DAY, NOON, House, add, static
from tests.gateway.scp import access_of
from tests.gateway.test_index import new

ALL = FindKeys({})


# Conditions


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('Modality == "CT"', "a grant cannot name Modality, only Acc.*; did you mean"),
        (
            'PatientIdd == "1"',
            "cannot name PatientIdd, only .*; did you mean PatientID",
        ),
        ('peer_address == "1"', "cannot name peer_address"),
        ("PatientID", "gives str, not true or false"),
        ('PatientID = "1"', "use == to compare"),
        ('ModalitiesInStudy == "CT" && PatientID.foo()', "there is no function foo"),
        ("", "."),
    ],
)
def test_a_wrong_condition_is_explained(text: str, match: str) -> None:
    with pytest.raises(ConditionError, match=match):
        compile_grant(text)


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_every_attribute_of_patient_and_study_may_be_named(keyword: str) -> None:
    text = (
        f'"1" in {keyword}' if keyword == "ModalitiesInStudy" else f'{keyword} == "1"'
    )
    assert compile_grant(text).keywords == {keyword}


def test_a_wrong_condition_in_the_site_file_is_found_at_load(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text(
        f'data_directory = "{tmp_path}"\n'
        "[[nodes]]\n"
        'name = "ward"\nae_titles = ["WARD"]\nroles = ["recover"]\n'
        'plain = true\naddresses = ["127.0.0.1/32"]\n'
        "[[grants]]\n"
        'name = "g"\nnodes = ["ward"]\nwhen = \'Modality == "CT"\'\n'
    )
    with pytest.raises(ConfigurationError, match=r"line 11.*grant 'g'.*Modality"):
        check_conditions(load(path, {}))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"nodes": ("wardd",)}, "no node is named 'wardd'; did you mean ward"),
        ({"move_destinations": ("NOWHERE",)}, "has no address"),
        ({"until": NOON - DAY}, "ends before it begins"),
        ({"when": 'Modality == "CT"'}, "line 1, column 1: a grant cannot name Mod"),
        ({"name": "all"}, "the name was used before"),
    ],
)
def test_a_grant_that_cannot_be_added_is_explained(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    house = House(tmp_path, {"grants": [static()]})
    with house.opened() as access, pytest.raises(GrantRefused, match=match):
        add(access, **({"name": "new"} | change))
    assert house.audited("grant-add") == []


@pytest.mark.parametrize("until", ["2027-01-01T00:00", "tomorrow"])
def test_an_end_needs_a_time_zone(tmp_path: Path, until: str) -> None:
    refused = pytest.raises(GrantRefused, match="until")
    with House(tmp_path).opened() as access, refused:
        add(access, until=until)


def test_a_name_is_not_used_twice_nor_revoked_twice(tmp_path: Path) -> None:
    house = House(tmp_path)
    with house.opened() as access:
        add(access, "a")
        access.revoke_grant("a", "tester", "over")
        for work, match in (
            (lambda: add(access, "a"), "used before"),
            (lambda: access.revoke_grant("a", "t", "r"), "revoked before"),
            (lambda: access.revoke_grant("b", "t", "r"), "no grant is named 'b'"),
        ):
            with pytest.raises(GrantRefused, match=match):
                work()
    (added,), (revoked,) = house.audited("grant-add"), house.audited("grant-revoke")
    assert (added["who"], added["grant"], added["nodes"]) == ("tester", "a", ["ward"])
    assert (revoked["who"], revoked["reason"]) == ("tester", "over")


# Who, whereto


def names(
    access: Access, house: House, node: str, user: str | None = None
) -> list[str]:
    caller = house.caller(node, user)
    return [h.grant.name for h in access.holding(lambda held: held.is_for(caller))]


def test_nothing_is_granted_by_default(tmp_path: Path) -> None:
    house = House(tmp_path)
    with seeded(house, [new()]) as access:
        for granted in (
            access.listed(house.caller()),
            access.given(house.caller()),
            access.moved(house.caller(), "WARD"),
        ):
            assert granted.is_empty
            assert granted.find(ALL, Level.STUDY) == []
            assert granted.matching(ALL).granted == []


def test_a_grant_is_for_its_nodes_and_users(tmp_path: Path) -> None:
    tables = [
        static("one"),
        static("two", nodes=["ward", "clinic"]),
        static("named", users=["anna", "bert"]),
    ]
    house = House(tmp_path, {"grants": tables})
    with house.opened() as access:
        assert names(access, house, "ward") == ["one", "two"]
        assert names(access, house, "ward", "anna") == ["one", "two", "named"]
        assert names(access, house, "ward", "Anna") == ["one", "two"]
        assert names(access, house, "clinic", "anna") == ["two"]


@pytest.mark.parametrize(
    ("listed", "moves", "itself"),
    [
        ([], {"WARD", "WARD2"}, True),
        (["ARCHIVE"], {"ARCHIVE"}, False),
        (["ARCHIVE", "WARD"], {"ARCHIVE", "WARD"}, True),
    ],
)
def test_destinations_are_those_of_the_grant(
    tmp_path: Path, listed: list[str], moves: set[str], itself: bool
) -> None:
    house = House(tmp_path, {"grants": [static(move_destinations=listed)]})
    with house.opened() as access:
        caller = house.caller()
        titles = {"WARD", "WARD2", "ARCHIVE", "CLINIC", ""}
        assert {t for t in titles if access.may_move(caller, t)} == moves
        assert access.given(caller).is_empty is not itself
        assert not access.may_move(house.caller("clinic"), "ARCHIVE")


# Rows


@contextmanager
def seeded(house: House, rows: Sequence[NewInstance]) -> Iterator[Access]:
    with house.process() as (access, index):
        put(index, rows)
        yield access


def put(index: Index, rows: Sequence[NewInstance]) -> None:
    with index.database.write() as connection:
        connection.execute(delete(instances))
        if rows:
            connection.execute(insert(instances), [asdict(row) for row in rows])


def test_counts_and_lists_tell_of_granted_objects_only(tmp_path: Path) -> None:
    rows = [
        new(1, modality="CT", calling_ae="CT1", series_instance_uid="1.6.1"),
        new(2, modality="SR", calling_ae="OTHER", series_instance_uid="1.6.2"),
        new(3, modality="CT", calling_ae="CT1", series_instance_uid="1.6.3"),
        new(4, modality="CT", calling_ae="CT1", study_instance_uid="1.9"),
    ]
    rows = [NewInstance(**asdict(row) | {"patient_id": "P1"}) for row in rows]
    when = 'calling_ae == "CT1" && StudyInstanceUID == "1.5"'
    house = House(tmp_path, {"grants": [static(when=when)]})
    with seeded(house, rows) as access:
        listed = access.listed(house.caller())
        (study,) = listed.find(ALL, Level.STUDY)
        (patient,) = listed.find(ALL, Level.PATIENT)
        series = listed.find(ALL, Level.SERIES)
        images = listed.find(ALL, Level.IMAGE)
        hidden = listed.find(FindKeys({"ModalitiesInStudy": ["SR"]}), Level.STUDY)
    assert study["ModalitiesInStudy"] == ["CT"]
    assert study["NumberOfStudyRelatedSeries"] == 2
    assert study["NumberOfStudyRelatedInstances"] == 2
    assert patient["NumberOfPatientRelatedStudies"] == 1
    assert patient["NumberOfPatientRelatedInstances"] == 2
    assert [row["SeriesInstanceUID"] for row in series] == ["1.6.1", "1.6.3"]
    assert [row["SOPInstanceUID"] for row in images] == ["1.2.3.1", "1.2.3.3"]
    assert hidden == []


def test_what_cannot_be_decided_is_not_granted(tmp_path: Path) -> None:
    when = 'int(PatientID) > 5 || ModalitiesInStudy[1] == "SR"'
    house = House(tmp_path, {"grants": [static(when=when)]})
    rows = [
        new(1, patient_id="9", study_instance_uid="1"),
        new(2, patient_id="nine", study_instance_uid="2"),
        new(3, patient_id="", study_instance_uid="3", modality="CT"),
    ]
    with seeded(house, rows) as access:
        granted = access.given(house.caller()).matching(ALL)
    assert [row.study_instance_uid for row in granted.granted] == ["1"]
    assert granted.outside == 2


def test_a_grant_that_is_revoked_admits_nothing_more(tmp_path: Path) -> None:
    house = House(tmp_path, {"grants": [static()]})
    with seeded(house, [new()]) as access:
        given = access.given(house.caller())
        (row,) = given.matching(ALL).granted
        assert given.admits(row)
        with house.opened() as command:
            command.revoke_grant("all", "tester", "over")
        assert not given.admits(row)
        assert given.find(ALL, Level.IMAGE) == []


def test_a_condition_that_no_release_knows_any_more_admits_nothing(
    tmp_path: Path,
) -> None:
    house = House(tmp_path)
    body = grant_of({"name": "old", "nodes": ("ward",), "when": "Gone == 1"})
    with seeded(house, [new()]) as access, house.books() as books:
        with books.changing() as change:
            entry = {"grant": body.model_dump(mode="json"), "who": "tester"}
            change.append("grants", "add", "old", entry, "2026-01-01T00:00:00.000000Z")
        add(access, "good", when='StudyInstanceUID == "1.5"')
        given = access.given(house.caller())
        assert len(given.matching(ALL).granted) == 1
        access.revoke_grant("good", "tester", "over")
        assert given.matching(ALL).granted == []
        assert [h.grant.name for h in access.grants()[0]] == ["old", "good"]


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_lists_of_any_length_are_one_parameter(tmp_path: Path, count: int) -> None:
    with House(tmp_path).process() as (_, index):
        put(index, [new(1), new(2, study_instance_uid="7.3")])
        column = instances.c.study_instance_uid
        chosen = one_of(column, [f"7.{n}" for n in range(count)], "sqlite")
        with index.database.read() as connection:
            found = connection.scalars(select(column).where(chosen)).all()
    assert found == (["7.3"] if count > 3 else [])


@pytest.mark.parametrize(
    ("column", "values", "cast_to"),
    [("study_instance_uid", ["1.5"], "VARCHAR"), ("id", [1], "INTEGER")],
)
def test_lists_are_written_for_postgresql_too(
    column: str, values: list[Any], cast_to: str
) -> None:
    chosen = one_of(instances.c[column], values, "postgresql")
    text = str(
        select(instances.c.id).where(chosen).compile(dialect=postgresql.dialect())
    )
    assert "json_array_elements_text(CAST(" in text
    assert f"AS {cast_to})" in text


VALUES = st.sampled_from(["A", "B", ""])
CONDITIONS = (
    "true",
    "1 == 1",
    'PatientID == "A"',
    'PatientID != "" && calling_ae == "A"',
    '"A" in ModalitiesInStudy',
    'StudyDate >= "20260102"',
    'received_at <= "20260101"',
    'StudyInstanceUID in ["1", "3"]',
    'PatientName.startsWith("A") || StudyDescription == "B"',
    "int(StudyID) > 1",
)


@st.composite
def rows(draw: st.DrawFn) -> list[NewInstance]:
    """Up to a dozen objects of three studies, whose attributes may disagree."""
    return [
        new(
            number,
            study_instance_uid=draw(st.sampled_from("123")),
            series_instance_uid=draw(st.sampled_from(["7", "8"])),
            patient_id=draw(VALUES),
            patient_name=draw(VALUES),
            modality=draw(VALUES),
            calling_ae=draw(VALUES),
            study_description=draw(VALUES),
            study_id=draw(st.sampled_from(["1", "2", "x"])),
            study_date=draw(st.sampled_from(["20260101", "20260103"])),
            received_at=draw(st.sampled_from(["2026-01-01T23", "2026-01-02T00"])),
        )
        for number in range(draw(st.integers(0, 12)))
    ]


def admits(when: str, row: NewInstance, all_rows: Sequence[NewInstance]) -> bool:
    """The model: one row, one condition, nothing remembered."""
    study = [r for r in all_rows if r.study_instance_uid == row.study_instance_uid]
    attributes: dict[str, Any] = {
        "PatientID": row.patient_id,
        "PatientName": row.patient_name,
        "StudyInstanceUID": row.study_instance_uid,
        "StudyID": row.study_id,
        "StudyDate": row.study_date,
        "StudyDescription": row.study_description,
        "calling_ae": row.calling_ae,
        "received_at": row.received_at[:10].replace("-", ""),
        "ModalitiesInStudy": sorted({r.modality for r in study} - {""}),
    }
    try:
        return compile_grant(when).evaluate(attributes)
    except ConditionError:
        return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Index]]:
    house = House(tmp_path_factory.mktemp("grants"))
    with house.process() as (_, index):
        yield house, index


@settings(
    max_examples=50,
    deadline=None,
)
@given(
    held=rows(),
    conditions=st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=2),
    patient=st.sampled_from([None, "A", "B"]),
)
def test_grants_admit_exactly_the_rows_their_conditions_do(
    shared: tuple[House, Index],
    held: list[NewInstance],
    conditions: list[str],
    patient: str | None,
) -> None:
    house, index = shared
    put(index, held)
    keys = FindKeys({} if patient is None else {"PatientID": [patient]})
    tables = [static(f"g{n}", when=when) for n, when in enumerate(conditions)]
    house.settings = {"grants": tables}
    listed = access_of(house.site, index, house.audit).listed(house.caller())
    matching = listed.matching(keys)
    images = listed.find(keys, Level.IMAGE)
    studies = listed.find(keys, Level.STUDY)
    patients = listed.find(keys, Level.PATIENT)
    seen = [r for r in held if any(admits(when, r, held) for when in conditions)]
    asked = [r for r in seen if patient is None or r.patient_id == patient]
    uids = sorted(r.sop_instance_uid for r in asked)
    assert sorted(r.sop_instance_uid for r in matching.granted) == uids
    all_asked = [r for r in held if patient is None or r.patient_id == patient]
    assert matching.outside == len(all_asked) - len(asked)
    assert sorted(row["SOPInstanceUID"] for row in images) == uids
    assert {row["StudyInstanceUID"] for row in studies} == {
        r.study_instance_uid for r in asked
    }
    for row in studies:
        of_study = [r for r in seen if r.study_instance_uid == row["StudyInstanceUID"]]
        assert row["NumberOfStudyRelatedInstances"] == len(of_study)
        assert row["ModalitiesInStudy"] == sorted({r.modality for r in of_study} - {""})
    for row in patients:
        of_patient = [r for r in seen if r.patient_id == row["PatientID"]]
        assert row["NumberOfPatientRelatedInstances"] == len(of_patient)
        assert row["NumberOfPatientRelatedStudies"] == len(
            {r.study_instance_uid for r in of_patient}
        )
    assert {row["PatientID"] for row in patients} == {
        r.patient_id for r in asked if r.patient_id
    }
