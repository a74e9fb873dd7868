"""Erasure of a study: nothing gives it back, and every cut-off step goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import update
from typer.testing import CliRunner

from gateway.app.openers import (
    open_audit_of,
    open_index_of,
    open_keys_of,
    open_secrets_of,
    open_store_of,
    open_vault_of,
)
from gateway.cli.key_site import open_site
from gateway.cli.main import build_app
from gateway.errors import GatewayError, InvalidSeal, KeyErased, StoredObjectDamaged
from gateway.sealing.envelope import open_sealed
from gateway.stages.erase import Eraser
from gateway.stages.gate import Gate
from gateway.store.clock import utc_now
from gateway.store.erasure import Erasure
from gateway.store.fence import Fence
from gateway.store.files import FileStore
from gateway.store.index import Index
from gateway.store.rows import Instance, PartOutcome, Protected
from gateway.store.schema import deliveries, instances
from gateway.store.upgrade import backups_of
from gateway.store.work import Work
from gateway.vault.vault import Vault
from tests.endtoend.scan import Needle, Scanner, pixels_of, texts_of
from tests.gateway.key_cases import SealedSite
from tests.gateway.object_cases import as_file, corpus_file
from tests.gateway.outside import receive_file
from tests.gateway.seeding import protect

GONE, KEPT = "1.2.826.0.1.3680043.8.498.91", "1.2.826.0.1.3680043.8.498.92"
PATIENT, OTHER = "PID-77-ERASED", "PID-88-REMAINS"
SENT = PartOutcome(state="sent", status=0, error="")
NAMES = {PATIENT: "Erdmannsdorf^Quirinus", OTHER: "Behaltenberg^Ulrike"}


@dataclass
class Case:
    sealed: SealedSite
    index: Index
    store: FileStore
    vault: Vault
    rows: dict[str, tuple[Instance, Protected]]
    part10: dict[str, bytes]

    @property
    def data(self) -> Path:
        return self.sealed.data

    def run(self, *arguments: str) -> str:
        given = ["erase", *arguments, "--config", str(self.sealed.config)]
        result = CliRunner().invoke(build_app(), given)
        if result.exception is not None:
            raise result.exception
        return result.output

    def erase(self, *arguments: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            self.run("--json", "--yes", "--reason", "asked for", *arguments)
        )
        return told

    def eraser(self) -> Eraser:
        site = open_site(self.sealed.config).site
        return Eraser(
            erasure=Erasure(self.index.database),
            store=self.store,
            vault=self.vault,
            audit=open_audit_of(site, open_keys_of(site)),
            fence=Fence(self.data / "run" / "fence"),
            operator="root",
            clock=utc_now,
        )


def phantom(name: str, study: str, patient: str) -> bytes:
    dataset = dcmread(BytesIO(corpus_file(name).read_bytes()))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, f"{study}.1"
    dataset.SOPInstanceUID = f"{study}.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID = NAMES[patient], patient
    return as_file(dataset)


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Two studies, protected and sent; one of them is going to be erased."""
    sealed = SealedSite(tmp_path, records=0)
    site = open_site(sealed.config).site
    keys = open_keys_of(site)
    index = open_index_of(site, keys)
    made = Case(
        sealed, index, open_store_of(site, keys), open_vault_of(site, keys), {}, {}
    )
    for name, study, patient in (
        ("CT_small.dcm", GONE, PATIENT),
        ("MR_small.dcm", KEPT, OTHER),
    ):
        made.part10[study] = phantom(name, study, patient)
        row = receive_file(
            made.store, index, made.part10[study], series_instance_uid=f"{study}.1"
        )
        with index.database.write() as connection:
            values = {
                "study_instance_uid": study,
                "patient_id": patient,
                "patient_name": NAMES[patient],
            }
            own = instances.c.id == row.id
            connection.execute(update(instances).where(own).values(**values))
        instance = index.instance_by_id(row.id)
        assert instance is not None
        made.rows[study] = (instance, protect(instance, made.store, index, made.vault))
        revision = index.close_series(f"{study}.1", "MODALITY", utc_now())
        assert revision is not None
        index.plan_deliveries(revision.id, "outside", True, [row.id])
        (owed,) = index.deliveries_of(revision.id)
        index.record_delivery(owed.id, "sent", 0, "")
        index.set_revision(revision.id, "delivered")
    yield made
    index.close()


def laid_open(case: Case, target: Path) -> Path:
    """All that the master key opens, and everything else as it lies there."""
    keys = case.sealed.ring()
    for path in sorted(case.data.rglob("*")):
        if not path.is_file() or path.name == "master.key":
            continue
        copy = target / path.relative_to(case.data)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        try:
            with open_sealed(path, keys) as opened:
                copy.with_name(f"{path.name}.open").write_bytes(opened.read())
        except (InvalidSeal, OSError, ValueError):
            continue
    site = open_site(case.sealed.config).site
    key = open_secrets_of(site, open_keys_of(site)).get("index.key", 32)
    from sqlcipher3 import dbapi2

    for number, path in enumerate(
        [case.data / "index.sqlite", *backups_of(case.data / "index.sqlite")]
    ):
        with closing(dbapi2.connect(str(path))) as index:
            index.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
            clear = str(target / f"clear-{number}.sqlite")
            index.execute("ATTACH DATABASE ? AS clear KEY ''", (clear,))
            index.execute("SELECT sqlcipher_export('clear')")
            assert index.execute("PRAGMA freelist_count").fetchone() == (0,)
    return target


def needles(case: Case, study: str) -> set[Needle]:
    dataset = dcmread(BytesIO(case.part10[study]))
    found = set(pixels_of(dataset.PixelData, f"{study} pixels"))
    own = ("PatientName", "PatientID")
    texts = texts_of(dataset, study)
    return found | {n for n in texts if n.label.endswith(own)}


@pytest.mark.slow
def test_no_octet_of_it_can_be_had_with_the_master_key(
    case: Case, tmp_path: Path
) -> None:
    row, _ = case.rows[GONE]
    protected_octets = case.store.read_protected(case.rows[GONE][1].sop_instance_uid)
    strays(case)
    before = Scanner(needles(case, GONE)).tree(laid_open(case, tmp_path / "before"))
    assert {n for found in before.values() for n in found}

    told = case.erase(GONE)

    assert told["originals"] == [row.sop_instance_uid]
    assert told["outside"] == {"outside": 1}
    assert told["emptied"]
    everything = laid_open(case, tmp_path / "after")
    marked = dcmread(BytesIO(protected_octets)).PixelData
    wanted = needles(case, GONE) | set(pixels_of(marked, "protected pixels"))
    assert Scanner(wanted).tree(everything) == {}
    # The log was emptied; since then only that the erasure is done was written.
    assert (case.data / "index.sqlite-wal").stat().st_size < 2 * 4152
    kept = Scanner(needles(case, KEPT)).tree(everything)
    assert kept  # the other study is as it was
    case.vault.get(case.rows[KEPT][1].sop_instance_uid)


def strays(case: Case) -> None:
    """What kills left: a record, a file and received bytes without a row; a copy."""
    row, made = case.rows[GONE]
    copies = case.data / "backups"
    copies.mkdir()
    with case.index.database.engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.execute("VACUUM INTO ?", (str(copies / "index-0005-1.sqlite"),))
    record = case.vault.get(made.sop_instance_uid)
    part = record.parts[0]
    other = "1.2.826.0.1.3680043.8.498.99"
    from dataclasses import replace

    case.vault.put(replace(record, parts=(replace(part, uid=other),)))
    case.store.write_protected(other, case.store.read_protected(part.uid))
    path = Path(row.path)
    stray = path.with_name(f"{'0' * 32}-{path.name.partition('-')[2]}")
    case.store.path_of(str(stray)).write_bytes(
        case.store.path_of(row.path).read_bytes()
    )


def test_strays_of_a_crash_go_too(case: Case) -> None:
    strays(case)
    case.erase(GONE)
    with pytest.raises(KeyErased):
        case.vault.get("1.2.826.0.1.3680043.8.498.99")
    with pytest.raises(StoredObjectDamaged):
        case.store.read_protected("1.2.826.0.1.3680043.8.498.99")
    assert len(list((case.store.root / "originals").rglob("*.sealed"))) == 1
    assert backups_of(case.data / "index.sqlite") == []


def test_the_trail_says_who_when_and_why(case: Case) -> None:
    case.erase(GONE)
    begun, done = case.sealed.trail("erasure")
    assert (begun["phase"], done["phase"]) == ("begun", "done")
    assert (begun["reason"], begun["studies"]) == ("asked for", [GONE])
    assert begun["operator"]
    assert PATIENT not in json.dumps([begun, done])  # sealed
    assert "personal" in begun


def test_a_patient_is_erased(case: Case) -> None:
    assert "would erase 1 originals" in case.run("--patient", PATIENT)
    told = case.erase("--patient", PATIENT)
    assert told["originals"] == [case.rows[GONE][0].sop_instance_uid]
    with pytest.raises(GatewayError, match="no study of a patient"):
        case.erase("--patient", PATIENT)


def test_a_reason_is_wanted_and_what_is_not_here_is_said(case: Case) -> None:
    given = ["erase", GONE, "--yes", "--config", str(case.sealed.config)]
    assert CliRunner().invoke(build_app(), given).exit_code == 2
    with pytest.raises(GatewayError, match="holds no such object"):
        case.erase("1.2.3")
    assert case.index.instance(case.rows[GONE][0].sop_instance_uid) is not None


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    "step",
    [
        "gateway.store.erasure.Erasure.begin",
        "gateway.vault.vault.Vault.of_originals",
        "gateway.vault.vault.Vault.erase",
        "gateway.store.files.FileStore.destroy",
        "gateway.store.erasure.Erasure.remove",
        "gateway.store.erasure.Erasure.compact",
        "gateway.store.erasure.Erasure.finish",
    ],
)
def test_an_erasure_that_was_cut_off_goes_on(
    case: Case, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def dies(*_: object) -> None:
        raise Killed

    eraser = case.eraser()
    with monkeypatch.context() as patched:
        patched.setattr(step, dies)
        with pytest.raises(Killed):
            eraser.erase_study(GONE)

    eraser.erase_study(GONE)

    _, made = case.rows[GONE]
    with pytest.raises(KeyErased):
        case.vault.get(made.sop_instance_uid)
    assert eraser.erasure.of_study(GONE) == []
    assert not eraser.erasure.is_unfinished(GONE)
    with pytest.raises(GatewayError):
        eraser.erase_study(GONE)


def test_what_is_owed_leaves_no_more(case: Case) -> None:
    """The worker reads what is owed before each attempt."""
    row, _ = case.rows[GONE]
    revision = row.revision_id or 1
    case.index.plan_deliveries(revision, "archive", True, [row.id])
    case.index.set_revision(revision, "routed")
    case.eraser().erasure.begin(GONE, utc_now())
    assert case.index.pending_deliveries(revision, "archive") == []
    assert case.index.revisions("routed") == []
    assert case.index.revisions("held") == []  # nobody can retry it
    case.eraser().erase_study(GONE)
    assert case.index.deliveries_of(revision) == []


def test_work_under_way_is_waited_for_and_new_work_waits(case: Case) -> None:
    eraser = case.eraser()
    gate = Gate(eraser.fence)
    inside, leave, later = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with gate.passing():
            inside.set()
            leave.wait(60)

    def work_later() -> None:
        with gate.passing():
            later.set()

    first = threading.Thread(target=work)
    first.start()
    inside.wait(60)
    with pytest.raises(GatewayError, match="give the command again"):
        eraser.erase_study(GONE, seconds=0.2)
    assert eraser.erasure.is_unfinished(GONE)
    case.vault.get(case.rows[GONE][1].sop_instance_uid)
    leave.set()
    first.join(60)
    with eraser.fence.alone(10.0):
        second = threading.Thread(target=work_later)
        second.start()
        assert not later.wait(0.3)
    assert later.wait(60)
    second.join(60)
    eraser.erase_study(GONE)
    assert eraser.erasure.of_study(GONE) == []


def test_it_may_come_again_as_new(case: Case) -> None:
    row, _ = case.rows[GONE]
    case.erase(GONE)
    again = receive_file(
        case.store, case.index, case.part10[GONE], series_instance_uid=f"{GONE}.1"
    )
    assert again.id > row.id
    assert again.sha256 == row.sha256


def revision_of(index: Index, row: Instance) -> int:
    now = index.instance_by_id(row.id)
    assert now is not None
    assert now.revision_id is not None
    return now.revision_id


def test_what_was_sent_and_asked_for_it_goes_too(case: Case) -> None:
    index = case.index
    work = Work(index.database)
    pairs = {}
    for study, (row, made) in case.rows.items():
        (owed,) = index.deliveries_of(revision_of(index, row))
        pairs[study] = (made.sop_class_uid, made.sop_instance_uid)
        (part,) = index.plan_parts({owed.id: [pairs[study]]})[owed.id].values()
        index.record_part(part.id, SENT, last=True)
        index.begin_commitment(f"1.2.{len(pairs)}", "outside", index.parts_of(owed.id))
    work.begin_attempts([row.id for row, _ in case.rows.values()], "worker")
    asked = list(pairs.values())
    index.add_commitment_request("node", "MODALITY", "1.2.8", asked, 0.0)
    index.add_commitment_request("node", "MODALITY", "1.2.9", [pairs[GONE]], 0.0)

    assert case.erase(GONE)["outside"] == {"outside": 1}

    assert index.commitment("1.2.1") is None
    kept, _ = case.rows[KEPT]
    left = index.commitment("1.2.2")
    assert left is not None
    (still,) = index.deliveries_of(revision_of(index, kept))
    assert [part.id for part in index.parts_of(still.id)] == left.part_ids
    (waiting,) = index.commitment_requests("waiting")
    assert waiting.objects == [list(pairs[KEPT])]
    assert set(work.attempts_of([one.id for one, _ in case.rows.values()])) == {kept.id}


def test_a_request_for_more_than_what_is_erased_goes_on(case: Case) -> None:
    index = case.index
    (row, made), (other, _) = case.rows[GONE], case.rows[KEPT]
    number = revision_of(index, row)
    with index.database.write() as connection:
        together = {"revision_id": number}
        connection.execute(update(instances).values(**together))
        connection.execute(update(deliveries).values(**together))
    wanted = {
        one.id: [(made.sop_class_uid, f"1.2.{one.id}")]
        for one in index.deliveries_of(number)
    }
    parts = {}
    for each in index.plan_parts(wanted).values():
        for part in each.values():
            index.record_part(part.id, SENT, last=True)
            parts[part.delivery_id] = part
    index.begin_commitment("1.2.7", "outside", list(parts.values()))

    case.erase(GONE)

    left = index.commitment("1.2.7")
    (still,) = index.deliveries_of(number)
    assert left is not None
    assert left.part_ids == [parts[still.id].id]
    assert still.instance_id == other.id


def test_some_of_an_object_outside_is_told(case: Case) -> None:
    row, made = case.rows[GONE]
    number = revision_of(case.index, row)
    (owed,) = case.index.deliveries_of(number)
    uids = (made.sop_instance_uid, f"{made.sop_instance_uid}.2")
    first, _ = case.index.plan_parts(
        {owed.id: [(made.sop_class_uid, uid) for uid in uids]}
    )[owed.id].values()
    case.index.record_part(first.id, SENT, last=True)
    (now,) = case.index.deliveries_of(number)
    assert now.state == "pending"
    assert case.erase(GONE)["outside"] == {"outside": 1}


def test_jobs_of_before_find_no_work(case: Case) -> None:
    """A run of its own, which has its job: nobody asks for another."""
    row, _ = case.rows[GONE]
    number = revision_of(case.index, row)
    before = case.index.revision(number)
    case.eraser().erasure.begin(GONE, utc_now())
    now = case.index.revision(number)
    assert before is not None
    assert now is not None
    assert (now.state, now.run, now.enqueued) == (
        "erasing",
        before.run + 1,
        before.run + 1,
    )
    assert Work(case.index.database).due(10) == []
