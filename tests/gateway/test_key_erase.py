"""Erasure of originals: keys, files and rows, and what recovery says afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import update

from gateway.app.openers import (
    open_index_of,
    open_keys_of,
    open_store_of,
    open_vault_of,
)
from gateway.cli.key_site import open_site
from gateway.errors import GatewayError, KeyErased, RecordMissing
from gateway.sealing.envelope import open_sealed
from gateway.store.erasure import Erasure
from gateway.store.files import FileStore
from gateway.store.index import Index, utc_now
from gateway.store.rows import Instance, Protected
from gateway.store.schema import instances
from gateway.vault.vault import Vault
from tests.gateway.key_cases import SealedSite
from tests.gateway.outside import receive
from tests.gateway.seeding import protect


@dataclass
class Case:
    site: SealedSite
    index: Index
    store: FileStore
    vault: Vault
    made: list[tuple[Instance, Protected]]

    def erase(self, *arguments: str) -> dict[str, object]:
        told: dict[str, object] = json.loads(
            self.site.keys("erase", "--json", *arguments)
        )
        return told


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Two received and protected objects, in two studies, delivered."""
    site = SealedSite(tmp_path, records=0)
    settings = open_site(site.config).site
    keys = open_keys_of(settings)
    store, vault = open_store_of(settings, keys), open_vault_of(settings, keys)
    index = open_index_of(settings, keys)
    made = []
    for name, study in (("CT_small.dcm", "1.2.3"), ("MR_small.dcm", "1.2.9")):
        uid = receive(store, index, name, series_instance_uid=f"{study}.4").id
        with index.database.write() as connection:
            connection.execute(
                update(instances)
                .where(instances.c.id == uid)
                .values(study_instance_uid=study)
            )
        instance = index.instance_by_id(uid)
        assert instance is not None
        made.append((instance, protect(instance, store, index, vault)))
    yield Case(site, index, store, vault, made)
    index.close()


def settle(case: Case) -> None:
    for series in case.index.open_series():
        revision = case.index.close_series(
            series.series_instance_uid, series.calling_ae, utc_now()
        )
        assert revision is not None
        case.index.set_revision(revision.id, "delivered")


def test_nothing_goes_without_yes(case: Case) -> None:
    settle(case)
    original, protected = case.made[0]

    told = case.erase("--sop-instance", original.sop_instance_uid)

    assert told == {
        "erased": False,
        "originals": [original.sop_instance_uid],
        "protected": [protected.sop_instance_uid],
    }
    case.vault.get(protected.sop_instance_uid)
    assert case.site.trail("key-erasure") == []


@pytest.mark.parametrize("named", ["original", "protected"])
def test_an_object_is_erased_with_all_that_came_of_it(case: Case, named: str) -> None:
    settle(case)
    (original, protected), (other, kept) = case.made
    uid = {"original": original, "protected": protected}[named].sop_instance_uid
    copies = [case.store.path_of(row.path) for row in (original, protected)]
    descriptors = [path.open("rb") for path in copies]

    case.erase("--sop-instance", uid, "--yes")

    with pytest.raises(KeyErased, match="was erased"):
        case.vault.get(protected.sop_instance_uid)
    assert not any(path.exists() for path in copies)
    # Whoever still has the files has no key in them.
    for stream in descriptors:
        with stream:
            assert stream.read(208)[72:] == bytes(136)
    assert case.index.instance(original.sop_instance_uid) is None
    assert case.index.protected_by_uid(protected.sop_instance_uid) is None
    assert [r.series_instance_uid for r in case.index.revisions()] == [
        other.series_instance_uid
    ]
    case.vault.get(kept.sop_instance_uid)
    open_sealed(case.store.path_of(other.path), case.store.keys).close()
    (line,) = case.site.trail("key-erasure")
    assert line["sop_instance_uid"] == original.sop_instance_uid
    assert line["protected_uids"] == [protected.sop_instance_uid]
    assert line["operator"]


def test_a_study_is_erased(case: Case) -> None:
    settle(case)
    original, protected = case.made[1]

    told = case.erase("--study", original.study_instance_uid, "--yes")

    assert told["originals"] == [original.sop_instance_uid]
    with pytest.raises(RecordMissing):
        case.vault.get(protected.sop_instance_uid)
    case.vault.get(case.made[0][1].sop_instance_uid)
    line = case.site.trail("key-erasure")[-1]
    assert (line["studies"], line["instances"]) == ([original.study_instance_uid], 1)


def test_the_same_object_may_come_again(case: Case) -> None:
    settle(case)
    original, protected = case.made[0]
    case.erase("--sop-instance", original.sop_instance_uid, "--yes")

    again = protect(
        receive(case.store, case.index, "CT_small.dcm"),
        case.store,
        case.index,
        case.vault,
    )

    assert again.sop_instance_uid == protected.sop_instance_uid
    assert case.vault.get(again.sop_instance_uid)


def test_an_erasure_that_was_interrupted_is_taken_up(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(case)
    original, protected = case.made[0]

    class Killed(Exception):
        pass

    def dies(_self: object, _erased: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Erasure, "remove", dies)
        with pytest.raises(Killed):
            case.erase("--sop-instance", original.sop_instance_uid, "--yes")
    with pytest.raises(KeyErased):
        case.vault.get(protected.sop_instance_uid)

    case.erase("--sop-instance", original.sop_instance_uid, "--yes")

    assert case.index.instance(original.sop_instance_uid) is None


def test_what_is_under_way_is_not_erased(case: Case) -> None:
    original, protected = case.made[0]

    with pytest.raises(GatewayError, match="still being received, protected or sent"):
        case.erase("--sop-instance", original.sop_instance_uid, "--yes")

    case.vault.get(protected.sop_instance_uid)


def test_an_object_of_another_site(case: Case) -> None:
    with pytest.raises(GatewayError, match="holds no such object"):
        case.erase("--sop-instance", "1.2.3", "--yes")


def test_rows_are_gone_from_the_file(case: Case) -> None:
    settle(case)
    original, _ = case.made[0]
    case.erase("--study", original.study_instance_uid, "--yes")

    with case.index.database.read() as connection:
        for table in ("instances", "protected", "deliveries", "conflicts"):
            rows = connection.exec_driver_sql(f"SELECT * FROM {table}").all()
            assert original.sop_instance_uid not in str(rows)
