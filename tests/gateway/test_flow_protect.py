"""Making and keeping the protected object: real records, vault and files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from gateway.dicom.identifiers import UidMapper
from gateway.dicom.pixels import Reading
from gateway.dicom.restore import restorer
from gateway.errors import StoredObjectDamaged, Unprotectable, UnprotectedExport
from gateway.route.keywords import Value
from gateway.route.treatment import PLAIN, Treatment
from gateway.sealing.master import FileMasterKey
from gateway.stages.export import verified_protected
from gateway.stages.flow import Result, Wanted
from gateway.stages.flow_protect import Protection
from gateway.stages.recipe import Recipe
from gateway.store.files import FileStore
from gateway.store.index import Index, open_index
from gateway.store.rows import Instance, Protected
from gateway.vault.vault import Vault
from tests.gateway.follow_cases import as_part10, ct_image, key_object
from tests.gateway.object_cases import FastProtector
from tests.gateway.outside import FILES, receive, receive_file
from tests.gateway.stored import INDEX_KEY, a_store, content_of, put_in_place


class Choice:
    """Chooses the stand-in engine, and notes by what."""

    keywords = frozenset({"Modality", "calling_ae"})

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Value]] = []

    def choose(self, attributes: Mapping[str, Value]) -> FastProtector:
        self.asked.append(attributes)
        return FastProtector()

    def reading(self, attributes: Mapping[str, Value]) -> Reading:
        assert attributes
        return Reading(max_frames=10)


@dataclass
class Site:
    index: Index
    store: FileStore
    vault: Vault
    choice: Choice
    protection: Protection


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    index = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    store = a_store(tmp_path / "store")
    vault = Vault(tmp_path / "vault", FileMasterKey(tmp_path / "master.key"))
    choice = Choice()
    protection = Protection(
        index=index,
        store=store,
        vault=vault,
        protectors=choice,
        recipe=lambda treatment: Recipe(treatment=treatment),
        uids=UidMapper(b"secret" * 8),
        when_not_fooled="send",
        batch_frames=2,
    )
    yield Site(index, store, vault, choice, protection)
    index.close()


def protected(site: Site, *instances: Instance, by: Treatment = PLAIN) -> list[Result]:
    wanted = [Wanted(instance=one, treatments=(by,)) for one in instances]
    return list(site.protection.protect(wanted))


def test_models_are_chosen_ahead_and_faults_are_left_for_later(site: Site) -> None:
    sound = receive(site.store, site.index)
    broken = receive(site.store, site.index, FILES[1])
    put_in_place(site.store, broken.path, b"nothing of use")
    wanted = [Wanted(instance=one, treatments=(PLAIN,)) for one in (broken, sound)]
    site.protection.prepare(wanted)
    assert [attributes["Modality"] for attributes in site.choice.asked] == ["CT"]


def protect(site: Site, instance: Instance, by: Treatment = PLAIN) -> None:
    """Protect one instance, or raise why it is not."""
    (result,) = protected(site, instance, by=by)
    if result.failure is not None:
        raise result.failure


def rows(site: Site, instance: Instance) -> list[Protected]:
    return site.index.protected_parts(instance.id, "")


@pytest.mark.parametrize("name", FILES)
def test_what_is_kept_verifies_and_comes_back(site: Site, name: str) -> None:
    instance = receive(site.store, site.index, name)

    protect(site, instance)

    (row,) = verified_protected(rows(site, instance), site.store, site.vault)
    original = site.store.read_data_set(instance.path)[0]
    assert restorer(site.store, site.vault)(instance, row) == original
    assert site.store.read_data_set(row.path)[0] != original
    assert row.sop_instance_uid != instance.sop_instance_uid
    assert site.choice.asked[0]["calling_ae"] == "MODALITY"


def test_it_is_made_once(site: Site) -> None:
    instance = receive(site.store, site.index)
    protect(site, instance)
    before = site.index.protected_of(instance.id)

    protect(site, instance)

    assert site.index.protected_of(instance.id) == before
    assert len(site.choice.asked) == 1


def test_a_record_and_file_without_row_are_made_anew(site: Site) -> None:
    """As after a crash between the file and its row."""
    instance = receive(site.store, site.index)
    forgetful = replace(site.protection, index=Forgetful(site.index))
    list(forgetful.protect([Wanted(instance=instance, treatments=(PLAIN,))]))
    assert site.index.protected_of(instance.id) is None

    protect(site, instance)

    found = rows(site, instance)
    assert verified_protected(found, site.store, site.vault) == found


class Forgetful(Index):
    """Loses the row, as a power cut just before it."""

    def __init__(self, index: Index) -> None:
        self._database = index.database

    def add_protected(self, first: object, *parts: object) -> None:
        assert first is not None
        assert not parts


def test_a_row_whose_file_was_altered_is_not_made_again(site: Site) -> None:
    instance = receive(site.store, site.index)
    protect(site, instance)
    row = site.index.protected_of(instance.id)
    assert row is not None
    put_in_place(site.store, row.path, b"altered")

    with pytest.raises(UnprotectedExport, match="altered after protection"):
        protect(site, instance)

    assert content_of(site.store, row.path) == b"altered"


def test_a_stored_original_that_changed_is_not_protected(site: Site) -> None:
    instance = receive(site.store, site.index)
    content = content_of(site.store, instance.path)
    put_in_place(site.store, instance.path, content[:-2] + b"\1\1")

    with pytest.raises(StoredObjectDamaged, match="not what was received"):
        protect(site, instance)

    assert site.index.protected_of(instance.id) is None


def test_what_is_unprotectable_leaves_nothing_behind(site: Site) -> None:
    instance = receive(site.store, site.index, "test-SR.dcm")

    with pytest.raises(Unprotectable) as caught:
        protect(site, instance)

    assert caught.value.reason == "no-pixel-data"
    assert site.index.protected_of(instance.id) is None
    assert not any((site.store.root / "protected").iterdir())


# Objects without pictures

PASS = Treatment(non_images="pass")
DROP = Treatment(non_images="drop")


def image_and_key_object(site: Site) -> tuple[Instance, Instance]:
    """A received image and a key object selection that refers to it."""
    image = ct_image()
    files = (as_part10(image), as_part10(key_object([image])))
    first, second = (receive_file(site.store, site.index, f) for f in files)
    return first, second


def test_a_key_object_follows_the_image_it_refers_to(site: Site) -> None:
    image, document = image_and_key_object(site)
    protect(site, image, PASS)

    protect(site, document, PASS)

    (row,) = rows(site, document)
    (of_image,) = rows(site, image)
    octets = content_of(site.store, row.path)
    sent = dcmread(BytesIO(octets))
    item = sent.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert item.SeriesInstanceUID == of_image.series_instance_uid
    reference = item.ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == of_image.sop_instance_uid
    assert reference.ReferencedSOPClassUID == of_image.sop_class_uid
    assert image.sop_instance_uid.encode() not in octets
    original = site.store.read_data_set(document.path)[0]
    assert restorer(site.store, site.vault)(document, row) == original


def test_a_key_object_waits_for_the_image_it_refers_to(site: Site) -> None:
    image, document = image_and_key_object(site)

    with pytest.raises(Unprotectable) as held:
        protect(site, document, PASS)

    assert held.value.reason == "unresolved-references"
    assert rows(site, document) == []
    protect(site, image, PASS)
    protect(site, document, PASS)
    assert len(rows(site, document)) == 1


def test_an_image_made_for_another_treatment_stands_for_none(site: Site) -> None:
    image, document = image_and_key_object(site)
    protect(site, image, Treatment(uids="map"))

    with pytest.raises(Unprotectable, match="no protected counterpart"):
        protect(site, document, PASS)


def test_what_a_rule_drops_or_holds_is_never_made(site: Site) -> None:
    _, document = image_and_key_object(site)
    (dropped,) = protected(site, document, by=DROP)
    assert (dropped.ready, dropped.failure) == ((), None)
    assert "drops" in dropped.dropped
    (held,) = protected(site, document)
    assert isinstance(held.failure, Unprotectable)
    assert held.failure.reason == "no-pixel-data"
    assert rows(site, document) == []


def test_one_destination_may_get_what_another_drops(site: Site) -> None:
    image, document = image_and_key_object(site)
    protect(site, image)
    wanted = Wanted(instance=document, treatments=(PASS, DROP))
    (result,) = site.protection.protect([wanted])
    assert result.ready == (PASS,)


def test_images_never_pass_as_followers(site: Site) -> None:
    """Whatever the rule says of objects without pictures, a picture is marked."""
    instance = receive(site.store, site.index, "MR_small.dcm")
    protect(site, instance, PASS)
    (row,) = rows(site, instance)
    assert row.report["frames"]
    assert site.vault.get(row.sop_instance_uid).marks


# Treatments and parts


def test_each_treatment_has_an_object_of_its_own(site: Site) -> None:
    instance = receive(site.store, site.index, "MR_small.dcm")
    sealed = Treatment(custody="sealed-original")
    wanted = Wanted(instance=instance, treatments=(PLAIN, sealed))
    (result,) = site.protection.protect([wanted])
    assert result.ready == (PLAIN, sealed)
    made = [site.index.protected_parts(instance.id, t.key)[0] for t in result.ready]
    assert len({row.sop_instance_uid for row in made}) == 2
    assert len({row.series_instance_uid for row in made}) == 2
    records = [site.vault.get(row.sop_instance_uid) for row in made]
    assert [r.custody_name for r in records] == ["key", "sealed-original"]


def test_a_series_is_marked_together_and_one_that_fails_is_alone(site: Site) -> None:
    names = ("CT_small.dcm", "test-SR.dcm", "MR_small.dcm")
    instances = [receive(site.store, site.index, name) for name in names]
    first, second, third = protected(site, *instances)
    assert first.ready == third.ready == (PLAIN,)
    assert isinstance(second.failure, Unprotectable)
    assert [bool(rows(site, one)) for one in instances] == [True, False, True]
