"""Objects that memory does not hold, in a store that several machines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

import gateway.stages.flow_protect
from gateway.dicom.identifiers import UidMapper
from gateway.dicom.restore import restorer
from gateway.errors import InvalidSeal
from gateway.route.treatment import Treatment
from gateway.sealing.master import LocalMasterKey
from gateway.stages.export import verified_protected
from gateway.stages.flow_protect import Protection
from gateway.stages.recipe import Recipe
from gateway.store.durable import WholeFile
from gateway.store.files import FileStore
from gateway.store.index import open_index
from gateway.store.objects import ObjectBlobs
from gateway.store.octets import LazyOctets
from gateway.vault.shared import SharedVault
from tests.gateway.buckets import ObjectServer, any_server, blobs_at
from tests.gateway.object_cases import corpus_file
from tests.gateway.outside import receive_file
from tests.gateway.stored import INDEX_KEY, MASTER_KEY, STORE_SECRET
from tests.gateway.test_flow_protect import Choice, Site, protect
from tests.gateway.test_large_objects import odd, treat_all_as_large

__all__ = ["any_server"]

PREAMBLE = bytes(128) + b"DICM"
FILES = {
    "native": lambda: corpus_file("emri_small.dcm").read_bytes(),
    "overlay bits": lambda: PREAMBLE + odd(12, ExplicitVRLittleEndian),
    "compressed": lambda: PREAMBLE + odd(12, JPEGLSLossless),
}


@pytest.fixture
def blobs(any_server: ObjectServer, tmp_path: Path) -> ObjectBlobs:
    return blobs_at(any_server.endpoint, tmp_path / "spool", prefix=tmp_path.name)


@pytest.fixture
def site(
    blobs: ObjectBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """A site that holds nothing in memory, and reads no object as a whole."""
    treat_all_as_large(monkeypatch)
    monkeypatch.setattr(gateway.stages.flow_protect, "AT_ONCE", 0)
    monkeypatch.setattr(ObjectBlobs, "read", _as_a_whole)
    keys = LocalMasterKey(MASTER_KEY)
    index = open_index(tmp_path / "index.sqlite", INDEX_KEY)
    store = FileStore(tmp_path / "store", keys, STORE_SECRET, blobs)
    vault = SharedVault(blobs, tmp_path / "vault", keys)
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


def _as_a_whole(_blobs: ObjectBlobs, name: str) -> NoReturn:
    raise AssertionError(f"{name} is read as a whole")


@pytest.mark.parametrize("custody", ["auto", "key", "sealed-original"])
@pytest.mark.parametrize("name", FILES)
def test_a_large_object_comes_back_from_the_bucket(
    site: Site, blobs: ObjectBlobs, tmp_path: Path, name: str, custody: str
) -> None:
    instance = receive_file(site.store, site.index, FILES[name]())
    treatment = Treatment(custody=custody)

    protect(site, instance, treatment)

    found = site.index.protected_parts(instance.id, treatment.key)
    (row,) = verified_protected(found, site.store, site.vault)
    back = restorer(site.store, site.vault)(instance, row)
    assert isinstance(back, LazyOctets)
    assert back == site.store.read_data_set(instance.path)[0]
    assert site.store.read_data_set(row.path)[0] != back[:]
    assert len(list(blobs.names("vault"))) == 1
    for folder in (tmp_path / "spool", tmp_path / "store" / "incoming"):
        assert list(folder.iterdir()) == []
    assert not (tmp_path / "vault").exists()


def test_an_altered_large_record_opens_nowhere(site: Site, blobs: ObjectBlobs) -> None:
    """It is authenticated before anything of it is believed."""
    instance = receive_file(site.store, site.index, FILES["native"]())
    treatment = Treatment(custody="sealed-original")
    protect(site, instance, treatment)
    (row,) = site.index.protected_parts(instance.id, treatment.key)
    (name,) = blobs.names("vault")
    with blobs.open(name) as stream:
        octets = bytearray(stream.read())
    octets[len(octets) // 2] ^= 1
    blobs.put(name, bytes(octets))

    with pytest.raises(InvalidSeal):
        site.vault.get(row.sop_instance_uid)


def test_a_draft_of_a_record_is_claimed_until_it_is_an_object(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that clears what was left behind must not take it."""
    claimed = []
    adopt = ObjectBlobs.adopt

    def watched(blobs: ObjectBlobs, file: WholeFile, path: Path, name: str) -> None:
        claimed.append((name.partition("/")[0], not file.closed))
        adopt(blobs, file, path, name)

    instance = receive_file(site.store, site.index, FILES["native"]())
    monkeypatch.setattr(ObjectBlobs, "adopt", watched)
    protect(site, instance)
    assert claimed == [("vault", True), ("store", True)]
