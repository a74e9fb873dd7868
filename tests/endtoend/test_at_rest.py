"""A stolen disk: store, index, jobs, logs and audit without the master key.

A gateway receives real files, protects, sends, answers, gives back, refuses and
is killed; then every octet that it left is looked through for what names a
patient of these files and for pieces of their pictures. The same look at the
same data with the key's seals taken off finds every one of them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_charset_files
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.sop_class import PatientRootQueryRetrieveInformationModelFind
from sqlcipher3 import dbapi2

from config.load import load_site
from gateway.app.openers import open_keys_of, open_secrets_of, open_store_of
from gateway.demo.nodes import StorageNode, move_study
from gateway.dicom.rawstore import OutboundObject
from gateway.errors import AssociationLost
from gateway.store.part10 import FileMeta, encode_head
from tests.endtoend.scan import Needle, Scanner, pixels_of, texts_of
from tests.endtoend.support import OUTSIDE, WORKSTATION, Gateway, Ports
from tests.gateway.scp import encoded, example, from_file, send
from tests.waiting import wait_until

RULES = """
[[routing.rules]]
name = "pictures-leave-marked"
when = 'Modality in ["MR", "CT"] && Rows <= 256'
destinations = ["outside"]
protect = true
"""

FILES = (
    "CT_small.dcm",
    "MR_small_implicit.dcm",
    "MR2_J2KI.dcm",
    "examples_overlay.dcm",
    "JPEG2000.dcm",
    "image_dfl.dcm",
    "reportsi.dcm",
    "test-SR.dcm",
    "rtplan.dcm",
    "waveform_ecg.dcm",
)
CHARSETS = ("chrX1", "chrX2", "chrH31", "chrI2", "chrGreek", "chrRuss", "chrFren")
SUCCESS, CONFLICT, MISMATCH = 0x0000, 0xC0C0, 0xA900


def corpus() -> dict[str, OutboundObject]:
    """Real files by name; one of them under a name of our own."""
    objects = {name: named(example(name)) for name in FILES}
    for path in map(Path, get_charset_files("*.dcm")):
        if path.stem in CHARSETS:
            objects[path.name] = named(from_file(path))
    ours = dcmread(BytesIO(part10_of(example("MR_small.dcm"))))
    ours.SpecificCharacterSet = "ISO_IR 192"
    ours.PatientName = "Schönfärber^Änne Lieselotte"
    ours.PatientID = "PID-7731-2290-A"
    ours.PatientBirthDate = "19371204"
    ours.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.7731"
    ours.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.7732"
    ours.AccessionNumber = "ACC-5582-31"
    objects["ours"] = encoded(ours)
    return objects


def named(item: OutboundObject) -> OutboundObject:
    """Under the UIDs of its data set, which its file may not repeat rightly."""
    dataset = dcmread(BytesIO(part10_of(item)), stop_before_pixels=True)
    return replace(
        item,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
    )


def part10_of(item: OutboundObject) -> bytes:
    assert isinstance(item.data, bytes)
    meta = FileMeta(
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
    )
    return encode_head(meta) + item.data


def needles_of(name: str, part10: bytes) -> Iterator[Needle]:
    """What names the patient of an object, and pieces of its picture."""
    dataset = dcmread(BytesIO(part10))
    yield from texts_of(dataset, name)
    if "PixelData" in dataset:
        yield from pixels_of(dataset.PixelData, f"{name} pixels")
        if UID(dataset.file_meta.TransferSyntaxUID).is_encapsulated:
            decoded = dataset.pixel_array.tobytes()
            yield from pixels_of(decoded, f"{name} decoded pixels")


class Life:
    """What a gateway went through, and what of it is to be found nowhere."""

    def __init__(self, directory: Path) -> None:
        self.objects = corpus()
        self.needles = {
            needle
            for name, item in self.objects.items()
            for needle in needles_of(name, part10_of(item))
        }
        self.outside = StorageNode(OUTSIDE)
        self.station = StorageNode(WORKSTATION)
        with self.outside, self.station:
            ports = Ports(outside=self.outside.port, workstation=self.station.port)
            self.gateway = Gateway(directory, ports, RULES)
            with self.gateway:
                self._live()
        for arrival in self.outside.arrivals:
            dataset = dcmread(BytesIO(arrival.part10))
            self.needles |= {
                *pixels_of(dataset.PixelData, "protected pixels"),
            }

    def _live(self) -> None:
        gateway = self.gateway
        sent = send(gateway.ports.receiver, *self.objects.values())
        assert sent == [SUCCESS] * len(self.objects)
        self._refused()
        with closing(gateway.index()) as index:
            gateway.wait(
                lambda: (
                    not index.open_series()
                    and {r.state for r in index.revisions()} <= {"delivered", "held"}
                )
            )
            studies = {
                str(row.study_instance_uid)
                for item in self.objects.values()
                if (row := index.instance(item.sop_instance_uid)) is not None
            }
        for study in sorted(studies):
            asked = move_study(
                study,
                calling_ae=WORKSTATION,
                called_ae="MIAD-RECOVERY",
                port=gateway.ports.recovery,
                destination=WORKSTATION,
            )
            assert asked == SUCCESS
        self._query()
        self._killed_while_receiving()

    def _refused(self) -> None:
        """The same UID with other bytes, another UID than said, and a stranger."""
        port = self.gateway.ports.receiver
        known = self.objects["CT_small.dcm"]
        assert isinstance(known.data, bytes)
        other = dcmread(BytesIO(part10_of(known)))
        other.PatientComments = "Conflicting remark of Dr Oberholtzer"
        self.needles |= set(texts_of(other, "conflict"))
        assert send(port, encoded(other)) == [CONFLICT]
        lying = OutboundObject(
            sop_class_uid=known.sop_class_uid,
            sop_instance_uid="1.2.3.4.5",
            transfer_syntax_uid=known.transfer_syntax_uid,
            data=known.data,
        )
        assert send(port, lying) == [MISMATCH]
        ae = AE("STRANGER")
        ae.add_requested_context(known.sop_class_uid)
        assert ae.associate("127.0.0.1", port, ae_title="MIAD-GATEWAY").is_rejected

    def _query(self) -> None:
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "PATIENT"
        identifier.PatientName = "Schönfärber*"
        identifier.SpecificCharacterSet = "ISO_IR 192"
        identifier.PatientID = "PID-7731-2290-A"
        identifier.PatientBirthDate = ""
        identifier.PatientComments = "Conflicting*"
        model = PatientRootQueryRetrieveInformationModelFind
        for title in (WORKSTATION, "STORESCU"):
            ae = AE(title)
            ae.add_requested_context(model)
            port = self.gateway.ports.recovery
            association = ae.associate("127.0.0.1", port, ae_title="MIAD-RECOVERY")
            if association.is_established:
                list(association.send_c_find(identifier, model))
                association.release()

    def _killed_while_receiving(self) -> None:
        """Power fails while an object comes in: half of it lies in the store."""
        large = dcmread(BytesIO(part10_of(self.objects["examples_overlay.dcm"])))
        large.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.7739"
        large.add_new(0xFFFCFFFC, "OB", bytes(600_000))  # several chunks of the store
        item = encoded(large)
        assert isinstance(item.data, bytes)
        incoming = self.gateway.data / "store" / "incoming"
        stopped = threading.Event()

        class Halting(BytesIO):
            """Gives no more than half until the gateway is gone."""

            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 400_000:
                    stopped.wait(60)
                return super().read(size)

        def half() -> BinaryIO:
            return Halting(part10_of(item))

        halting = OutboundObject(
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
            transfer_syntax_uid=item.transfer_syntax_uid,
            data=half,
        )

        def send_half() -> None:
            with pytest.raises(AssociationLost):
                send(self.gateway.ports.receiver, halting)

        sender = threading.Thread(target=send_half)
        sender.start()
        try:
            wait_until(lambda: sum(p.stat().st_size for p in incoming.iterdir()) > 1e5)
            self.gateway.kill()
        finally:
            stopped.set()
            sender.join(60)
        assert list(incoming.iterdir())


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return Life(tmp_path_factory.mktemp("at-rest"))


def stolen(life: Life, target: Path) -> Path:
    """Store, databases, secrets, audit, configuration and logs; no master key."""
    shutil.copytree(
        life.gateway.data, target / "data", ignore=shutil.ignore_patterns("master.key*")
    )
    shutil.copy(life.gateway.config, target)
    shutil.copy(life.gateway.log, target)
    assert not list(target.rglob("master*"))
    return target


def laid_open(life: Life, target: Path) -> Path:
    """The same with the seals of store and index taken off, as the key allows."""
    site = load_site(life.gateway.config, environ={})
    keys = open_keys_of(site)
    store = open_store_of(site, keys)
    for path in sorted(store.root.rglob("*.sealed")):
        relative = path.relative_to(store.root).as_posix()
        clear = target / "store" / relative
        clear.parent.mkdir(parents=True, exist_ok=True)
        with store.open(relative) as stream:
            clear.write_bytes(stream.read())
    key = open_secrets_of(site, keys).get("index.key", 32)
    with closing(dbapi2.connect(str(life.gateway.data / "index.sqlite"))) as index:
        index.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        clear_index = str(target / "index.sqlite")
        index.execute("ATTACH DATABASE ? AS clear KEY ''", (clear_index,))
        index.execute("SELECT sqlcipher_export('clear')")
    return target


@pytest.mark.slow
def test_a_stolen_disk_names_no_patient_and_shows_no_picture(
    life: Life, tmp_path: Path
) -> None:
    assert len(life.outside.arrivals) >= 3
    assert len(life.station.arrivals) >= len(life.objects)
    copy = stolen(life, tmp_path)
    assert (copy / "gateway.log").stat().st_size > 1000
    assert len(list((copy / "data" / "store").rglob("*.sealed"))) > 20
    assert Scanner(life.needles).tree(copy) == {}


@pytest.mark.slow
def test_the_same_look_finds_everything_once_the_seals_are_off(
    life: Life, tmp_path: Path
) -> None:
    found = Scanner(life.needles).tree(laid_open(life, tmp_path))
    everywhere = set().union(*found.values())
    wanted = {needle.label for needle in life.needles}
    # What is stored compressed holds its pixels in that form only.
    decoded = {label for label in wanted if "decoded" in label}
    assert wanted - decoded <= everywhere
    assert {label for label in found["index.sqlite"] if "PatientName" in label}
    assert {label for label in found["index.sqlite"] if "PatientBirthDate" in label}
