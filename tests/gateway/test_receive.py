from __future__ import annotations

import hashlib
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from gateway.dicom.contexts import storage_classes, transfer_syntaxes
from gateway.dicom.rawstore import OutboundObject, store_bytes
from gateway.errors import AssociationLost
from tests.gateway.scp import (
    CT_IMAGE,
    EXPLICIT,
    IMPLICIT,
    MODALITY,
    Gateway,
    associated,
    deflate,
    encoded,
    example,
    gateway,
    node,
    send,
    site,
    small,
)
from tests.waiting import wait_until

VERIFICATION = "1.2.840.10008.1.1"
OTHER_CLASS = "1.2.840.10008.5.1.4.1.1.4"

# One real file per transfer syntax that pydicom's files have.
FILES = (
    "MR_small_implicit.dcm",
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "image_dfl.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "JPEG-lossy.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG2000.dcm",
    "MR_small_jp2klossless.dcm",
)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(site(tmp_path)) as listening:
        yield listening


def stored_files(listening: Gateway) -> list[Path]:
    return [path for path in listening.store.root.rglob("*") if path.is_file()]


def assert_stored(listening: Gateway, item: OutboundObject) -> None:
    instance = listening.index.instance(item.sop_instance_uid)
    assert instance is not None
    assert isinstance(item.data, bytes)
    data, syntax = listening.store.read_data_set(instance.path)
    assert data == item.data
    assert syntax == instance.transfer_syntax_uid == item.transfer_syntax_uid
    assert instance.sha256 == hashlib.sha256(item.data).hexdigest()
    assert instance.size_bytes == len(item.data)


def assert_nothing_stored(listening: Gateway) -> None:
    assert stored_files(listening) == []
    assert listening.index.open_series() == []


# What is accepted


@pytest.mark.parametrize("name", FILES)
def test_real_files_are_stored_as_sent(running: Gateway, name: str) -> None:
    item = example(name)
    assert send(running.port, item) == [0x0000]
    assert_stored(running, item)


def test_an_echo_is_answered(running: Gateway) -> None:
    with associated(running.port, [(VERIFICATION, IMPLICIT)]) as association:
        assert association.send_c_echo().Status == 0x0000


def test_every_storage_class_and_transfer_syntax_is_negotiated(
    running: Gateway,
) -> None:
    classes, syntaxes = storage_classes(), transfer_syntaxes()
    assert len(classes) > 190
    assert {
        "1.2.840.10008.1.2.4.201",  # HTJ2K lossless
        "1.2.840.10008.1.2.4.202",
        "1.2.840.10008.1.2.4.203",
        "1.2.840.10008.1.2.4.51",
        "1.2.840.10008.1.2.4.57",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.5",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame
        "1.2.840.10008.1.2.4.110",  # JPEG XL Lossless
    } <= set(syntaxes)
    pairs = [(uid, syntaxes[n % len(syntaxes)]) for n, uid in enumerate(classes)]
    pairs += [(CT_IMAGE, syntax) for syntax in syntaxes]
    for start in range(0, len(pairs), 128):
        asked = list(dict.fromkeys(pairs[start : start + 128]))
        with associated(running.port, asked) as association:
            accepted = [
                (str(c.abstract_syntax), str(c.transfer_syntax[0]))
                for c in association.accepted_contexts
            ]
        assert accepted == asked


def test_an_unknown_sop_class_is_not_accepted(running: Gateway) -> None:
    asked = [("1.2.840.99999.1", EXPLICIT), (VERIFICATION, EXPLICIT)]
    with associated(running.port, asked) as association:
        assert len(association.accepted_contexts) == 1


def test_an_unknown_transfer_syntax_is_not_accepted(running: Gateway) -> None:
    asked = [(CT_IMAGE, "1.2.840.99999.2"), (CT_IMAGE, EXPLICIT)]
    with associated(running.port, asked) as association:
        accepted = [str(c.transfer_syntax[0]) for c in association.accepted_contexts]
    assert accepted == [EXPLICIT]


def test_uncompressed_is_chosen_where_a_sender_offers_both(running: Gateway) -> None:
    offered = ["1.2.840.10008.1.2.4.50", IMPLICIT, EXPLICIT]
    entity = AE(MODALITY)
    association = entity.associate(
        "127.0.0.1",
        running.port,
        contexts=[build_context(CT_IMAGE, offered)],
        ae_title="MIAD-GATEWAY",
    )
    (context,) = association.accepted_contexts
    association.release()
    assert context.transfer_syntax == [EXPLICIT]


def test_the_index_knows_who_sent_what(running: Gateway) -> None:
    item = example("CT_small.dcm")
    send(running.port, item)
    instance = running.index.instance(item.sop_instance_uid)
    assert instance is not None
    assert (instance.calling_ae, instance.called_ae) == (MODALITY, "MIAD-GATEWAY")
    assert instance.peer_address == "127.0.0.1"
    assert (instance.modality, instance.patient_id) == ("CT", "1CT1")
    assert (instance.study_date, instance.study_time) == ("20040119", "072730")
    assert instance.patient_name == "CompressedSamples^CT1"


def test_an_object_of_many_pdus_arrives_whole(tmp_path: Path) -> None:
    dataset = small(PixelData=os.urandom(3_000_000))
    dataset["PixelData"].VR = "OW"
    item = encoded(dataset)
    for limit in (1 << 20, 4096):
        settings = site(tmp_path / str(limit), receiver={"max_pdu_bytes": limit})
        with gateway(settings) as running:
            assert send(running.port, item) == [0x0000]
            assert_stored(running, item)


def test_a_small_deflated_file_that_inflates_without_end_is_stored(
    running: Gateway,
) -> None:
    dataset = small(PixelData=bytes(200_000_000))
    dataset["PixelData"].VR = "OW"
    plain = encoded(dataset)
    assert isinstance(plain.data, bytes)
    bomb = replace(
        plain,
        transfer_syntax_uid="1.2.840.10008.1.2.1.99",
        data=deflate(plain.data),
    )
    assert send(running.port, bomb) == [0x0000]
    assert_stored(running, bomb)


def test_strange_values_do_not_keep_an_object_out(running: Gateway) -> None:
    item = encoded(small())
    assert isinstance(item.data, bytes)

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value

    strange = b"".join(
        [
            element(0x0008, 0x0005, b"CS", b"NO SUCH SET "),
            element(0x0008, 0x0016, b"UI", CT_IMAGE.encode() + b"\0"),
            element(0x0008, 0x0018, b"UI", b"1.2.3.4\0"),
            element(0x0008, 0x0020, b"DA", b"not a date at all "),
            element(0x0008, 0x0060, b"CS", b"X" * 3000),
            element(0x0010, 0x0010, b"PN", b"\xff\xfe\0\x1b$B" + b"^" * 1000),
            element(0x0010, 0x0020, b"LO", b"P" * 200),
            element(0x0020, 0x000D, b"UI", b"1.2.3\0"),
            element(0x0020, 0x000E, b"UI", b"1.2.3.1\0"),
            element(0x0020, 0x0013, b"IS", b"abc "),
        ]
    )
    assert send(running.port, replace(item, data=strange)) == [0x0000]
    instance = running.index.instance("1.2.3.4")
    assert instance is not None
    assert instance.patient_id == "P" * 64
    assert instance.modality == "X" * 16
    assert instance.study_date == "not a da"
    assert instance.instance_number == "abc"
    assert "\0" not in instance.patient_name


def test_a_cut_pixel_element_is_stored_for_the_protection_to_judge(
    running: Gateway,
) -> None:
    item = example("MR_small.dcm")
    assert isinstance(item.data, bytes)
    cut = replace(item, data=item.data[:-1000])
    assert send(running.port, cut) == [0x0000]
    assert_stored(running, cut)


# Sent again


def test_what_is_sent_twice_is_stored_once(running: Gateway) -> None:
    item = example("CT_small.dcm")
    assert send(running.port, item, item) == [0x0000, 0x0000]
    assert send(running.port, item) == [0x0000]
    assert len(stored_files(running)) == 1
    (series,) = running.index.open_series()
    assert running.index.close_series(
        series.series_instance_uid, MODALITY, running.audit._clock()
    )


@pytest.mark.parametrize("change", ["bytes", "syntax"])
def test_other_bytes_under_a_known_uid_are_kept_aside(
    running: Gateway, change: str
) -> None:
    first = example("MR_small.dcm")
    other = example("MR_small_bigendian.dcm")
    if change == "bytes":
        other = replace(first, data=bytes(first.data) + b"\xfc\xff\xfc\xff\0\0\0\0")
    assert other.sop_instance_uid == first.sop_instance_uid
    assert send(running.port, first) == [0x0000]
    assert send(running.port, other, other) == [0xC0C0, 0xC0C0]
    assert_stored(running, first)
    (conflict,) = running.index.conflicts_of(first.sop_instance_uid)
    assert conflict.path.startswith("conflicts/")
    assert running.store.read_data_set(conflict.path) == (
        other.data,
        other.transfer_syntax_uid,
    )
    assert len(stored_files(running)) == 2
    first_line, _ = running.audited("store", "refused")
    assert first_line["status"] == "0xC0C0"
    assert first_line["sop_instance_uid"] == first.sop_instance_uid


def test_associations_that_send_one_uid_at_once_agree(running: Gateway) -> None:
    objects = [
        encoded(small(StudyDescription=f"variant {number % 2}")) for number in range(6)
    ]
    with ThreadPoolExecutor(6) as pool:
        statuses = [s for (s,) in pool.map(lambda o: send(running.port, o), objects)]
    assert sorted(statuses) == [0x0000] * 3 + [0xC0C0] * 3
    (conflict,) = running.index.conflicts_of("1.2.3.4")
    kept = running.index.instance("1.2.3.4")
    assert kept is not None
    held = {running.store.read_data_set(x.path)[0] for x in (kept, conflict)}
    assert held == {o.data for o in objects}


# What is refused, each with its status; the association lives on


def truncated(item: OutboundObject) -> OutboundObject:
    return replace(item, data=bytes(item.data)[:40])


def garbage(item: OutboundObject) -> OutboundObject:
    return replace(item, data=b"\xff" * 1000)


def other_instance(item: OutboundObject) -> OutboundObject:
    return replace(item, sop_instance_uid="9.9.9")


def other_class(item: OutboundObject) -> OutboundObject:
    return replace(item, sop_class_uid=OTHER_CLASS)


def without_study(item: OutboundObject) -> OutboundObject:
    dataset = small(item.sop_instance_uid)
    del dataset.StudyInstanceUID
    return encoded(dataset)


def path_traversal(item: OutboundObject) -> OutboundObject:
    return replace(item, sop_instance_uid="../../x")


def bad_study_uid(item: OutboundObject) -> OutboundObject:
    data = bytes(encoded(small(StudyInstanceUID="1.2.345678")).data)
    return replace(item, data=data.replace(b"1.2.345678", b"../../../x"))


def not_deflated(item: OutboundObject) -> OutboundObject:
    return replace(item, transfer_syntax_uid="1.2.840.10008.1.2.1.99")


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (truncated, 0xC000),
        (garbage, 0xC000),
        (other_instance, 0xA900),
        (other_class, 0xA900),
        (without_study, 0xA900),
        (path_traversal, 0x0117),
        (bad_study_uid, 0xC000),
        (not_deflated, 0xC000),
    ],
)
def test_a_wrong_object_is_refused_and_nothing_is_stored(
    running: Gateway,
    spoil: Callable[[OutboundObject], OutboundObject],
    status: int,
) -> None:
    spoilt = spoil(encoded(small()))
    good = encoded(small("1.2.3.5"))
    assert send(running.port, spoilt, good) == [status, 0x0000]
    instance = running.index.instance(good.sop_instance_uid)
    assert instance is not None
    assert stored_files(running) == [running.store.path_of(instance.path)]
    assert instance.sha256 == hashlib.sha256(bytes(good.data)).hexdigest()
    (line,) = running.audited("store", "refused")
    assert line["status"] == f"0x{status:04X}"
    assert ".." not in str(line)


def test_an_object_of_another_class_than_its_context_is_refused(
    running: Gateway,
) -> None:
    item = encoded(small())
    with associated(running.port, [(CT_IMAGE, EXPLICIT)]) as association:
        context = association.accepted_contexts[0]
        context._abstract_syntax = OTHER_CLASS  # the peer lies in its request
        lying = replace(item, sop_class_uid=OTHER_CLASS)
        assert store_bytes(association, lying).status == 0x0122
    assert_nothing_stored(running)


def test_a_request_without_data_set_is_not_stored(running: Gateway) -> None:
    item = replace(encoded(small()), data=b"")
    with associated(running.port, [(CT_IMAGE, EXPLICIT)]) as association:
        # It announces a data set and sends none: a broken peer waits, and leaves.
        association.dimse_timeout = 0.5
        with pytest.raises(AssociationLost):
            store_bytes(association, item)
    wait_until(lambda: not stored_files(running))
    assert_nothing_stored(running)


def test_too_large_an_object_is_refused_while_it_comes(tmp_path: Path) -> None:
    settings = site(tmp_path, receiver={"max_object_bytes": 1 << 20})
    dataset = small(PixelData=bytes(1 << 20))
    dataset["PixelData"].VR = "OW"
    good = encoded(small("1.2.3.5"))
    with gateway(settings) as running:
        assert send(running.port, encoded(dataset), good) == [0xA700, 0x0000]
        assert len(stored_files(running)) == 1


def test_a_full_disk_answers_out_of_resources_and_recovers(running: Gateway) -> None:
    dataset = small(PixelData=bytes(8_000_000))
    dataset["PixelData"].VR = "OW"
    large, good = encoded(dataset), encoded(small("1.2.3.5"))
    contexts = [(CT_IMAGE, EXPLICIT)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with associated(running.port, contexts) as association:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, hard))
        try:
            assert store_bytes(association, large).status == 0xA700
            assert_nothing_stored(running)
            assert store_bytes(association, good).status == 0x0000
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store_bytes(association, large).status == 0x0000
    assert_stored(running, large)


def test_an_index_that_takes_no_rows_answers_out_of_resources(
    running: Gateway,
) -> None:
    with running.index.database.write() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_room BEFORE INSERT ON instances "
            "BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    first, second = encoded(small()), encoded(small("1.2.3.5"))
    with associated(running.port, [(CT_IMAGE, EXPLICIT)]) as association:
        assert store_bytes(association, first).status == 0xA700
        with running.index.database.write() as connection:
            connection.exec_driver_sql("DROP TRIGGER no_room")
        assert store_bytes(association, second).status == 0x0000
    assert running.index.instance(first.sop_instance_uid) is None
    assert len(stored_files(running)) == 1


# Who may call


@pytest.mark.parametrize(
    ("calling", "called", "reason"),
    [
        ("STRANGER", "MIAD-GATEWAY", (1, 1, 3)),
        ("ELSEWHERE", "MIAD-GATEWAY", (1, 1, 3)),
        (MODALITY, "ANOTHER", (1, 1, 7)),
        ("modality", "MIAD-GATEWAY", (1, 1, 3)),
    ],
)
def test_who_is_not_on_the_list_is_rejected_and_audited(
    tmp_path: Path, calling: str, called: str, reason: tuple[int, int, int]
) -> None:
    nodes = [
        node(MODALITY, "store"),
        node("ELSEWHERE", "store", addresses=["192.0.2.0/24"]),
        node("READER", "recover"),
    ]
    with gateway(site(tmp_path, nodes=nodes, grants=[])) as running:
        with associated(
            running.port, [(CT_IMAGE, EXPLICIT)], calling=calling, called=called
        ) as association:
            assert association.is_rejected
            answer = association.acceptor.primitive
            assert answer is not None
            assert (answer.result, answer.result_source, answer.diagnostic) == reason
        (line,) = running.audited("association", "refused")
        assert (line["calling_ae"], line["called_ae"]) == (calling, called)
        assert (line["result"], line["source"], line["reason"]) == reason
        assert line["peer_address"] == "127.0.0.1"


def test_no_nodes_configured_means_nobody(tmp_path: Path) -> None:
    with (
        gateway(site(tmp_path, nodes=[], grants=[])) as running,
        associated(running.port, [(CT_IMAGE, EXPLICIT)]) as association,
    ):
        assert association.is_rejected


def test_above_the_limit_associations_are_rejected_for_now(tmp_path: Path) -> None:
    asked = [(CT_IMAGE, EXPLICIT)]
    settings = site(tmp_path, receiver={"max_associations": 2})
    with (
        gateway(settings) as running,
        associated(running.port, asked) as one,
        associated(running.port, asked),
    ):

        def admitted() -> bool:
            with associated(running.port, asked) as again:
                answer = again.acceptor.primitive
                assert answer is not None
                if again.is_rejected:
                    rejection = (answer.result, answer.result_source, answer.diagnostic)
                    assert rejection == (2, 3, 2)
                return bool(again.is_established)

        assert not admitted()
        one.release()
        wait_until(admitted)


# Robustness of the listener


def test_connections_that_are_no_dicom_do_no_harm(running: Gateway) -> None:
    for junk in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x01\x00\xff\xff\xff\xff", b"\x04"):
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(junk)
    item = encoded(small())
    assert send(running.port, item) == [0x0000]


def test_who_has_not_said_its_name_cannot_fill_the_memory(running: Gateway) -> None:
    huge = b"\x04\x00\x7f\xff\xff\xff"
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.settimeout(20)
        connection.sendall(huge)
        answer = connection.recv(100)  # closed, with or without an A-ABORT
    assert answer == b"" or answer[:1] == b"\x07"


def test_a_sender_that_dies_in_the_middle_leaves_nothing(running: Gateway) -> None:
    dataset = small(PixelData=bytes(500_000))
    dataset["PixelData"].VR = "OW"
    item = encoded(dataset)
    with associated(running.port, [(CT_IMAGE, EXPLICIT)]) as association:
        half = replace(item, data=bytes(item.data)[:300_000])
        _send_without_end(association, half)
        wait_until(lambda: any(p.stat().st_size > 100_000 for p in incoming(running)))
        association.abort()
    wait_until(lambda: not incoming(running))
    assert_nothing_stored(running)
    assert send(running.port, item) == [0x0000]


def incoming(running: Gateway) -> list[Path]:
    return list((running.store.root / "incoming").iterdir())


def _send_without_end(association: Association, item: OutboundObject) -> None:
    """Send a request and pieces of its data set, but never the last."""
    from pynetdicom.pdu_primitives import P_DATA

    from gateway.dicom.command import encode_command
    from gateway.dicom.rawstore import _request

    context = association.accepted_contexts[0].context_id
    assert context is not None
    pieces = [b"\x03" + encode_command(_request(item, 1, None))]
    data = bytes(item.data)
    pieces += [b"\0" + data[at : at + 10_000] for at in range(0, len(data), 10_000)]
    for piece in pieces:
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context, piece))
        association.dul.send_pdu(primitive)


def test_stopping_leaves_no_thread_and_frees_the_ports(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with gateway(site(tmp_path)) as running:
        port = running.port
        send(port, encoded(small()))
        entity = AE(MODALITY)
        open_one = entity.associate(
            "127.0.0.1",
            port,
            contexts=[build_context(CT_IMAGE, EXPLICIT)],
            ae_title="MIAD-GATEWAY",
        )
        assert open_one.is_established
        running.running.stop(grace_seconds=0.2)
        wait_until(lambda: not open_one.is_established)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    wait_until(lambda: set(threading.enumerate()) <= before)


def test_an_association_leaves_one_line_of_what_it_brought(running: Gateway) -> None:
    item = encoded(small())
    send(running.port, item, item, garbage(encoded(small("1.2.3.5"))))
    wait_until(lambda: bool(running.audited("receive", "success")))
    (line,) = running.audited("receive", "success")
    assert (line["stored"], line["duplicate"], line["refused"]) == (1, 1, 1)
    assert line["studies"] == ["1.2.3"]
    assert running.audit.verify().count == 2


@pytest.mark.slow
def test_every_acknowledged_object_survives_kill_9(tmp_path: Path) -> None:
    code = f"""
import sys, threading
from pathlib import Path
sys.path[:0] = [{str(Path(__file__).parents[2])!r}]
from tests.gateway.scp import gateway, site
with gateway(site(Path({str(tmp_path)!r}))) as running:
    print("port", running.port, flush=True)
    threading.Event().wait()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    with child.stdout:
        port = next(
            int(line.split()[1]) for line in child.stdout if line.startswith(b"port")
        )
        acknowledged = []
        with associated(port, [(CT_IMAGE, EXPLICIT)]) as association:
            for number in range(1000):
                item = encoded(small(f"1.2.5.{number}", InstanceNumber=number))
                if number == 25:
                    child.kill()
                try:
                    assert store_bytes(association, item).status == 0x0000
                except AssociationLost:
                    break
                acknowledged.append(item)
        child.wait(60)
    assert len(acknowledged) >= 25
    with gateway(site(tmp_path)) as running:
        for item in acknowledged:
            assert_stored(running, item)
        assert incoming(running) == []
