"""DICOM over mutual TLS: who gets in on each service, and where objects go."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association

from config.schema import Destination, Site, Tls
from gateway.dicom.rawstore import store_bytes
from gateway.dicom.sender import SendResult, Verdict
from gateway.tls.identity import TlsIdentity
from tests.gateway.outside import Outside, send_objects
from tests.gateway.outside import destination as outside_destination
from tests.gateway.pki_cases import (
    DAY,
    HOST,
    NodeFiles,
    Pki,
    calling,
    client_context,
    period,
    pki_of,
    secrets_in,
    secure_node,
    secure_site,
    server_context,
)
from tests.gateway.scp import (
    ARCHIVE,
    CT_IMAGE,
    EXPLICIT,
    MODALITY,
    WORKSTATION,
    Archive,
    Gateway,
    associated,
    encoded,
    example,
    gateway,
    small,
)
from tests.waiting import wait_until

RECEIVER, RECOVERY = "MIAD-GATEWAY", "MIAD-RECOVERY"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
CONTEXTS = [(CT_IMAGE, EXPLICIT)]


@pytest.fixture(scope="module")
def archive(pki: Pki) -> Iterator[Archive]:
    """A move destination with TLS, which wants to see the gateway's certificate."""
    made = Archive()
    with made.listening(CONTEXTS, server_context(pki, pki.archive)):
        yield made


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, pki: Pki, archive: Archive
) -> Iterator[Gateway]:
    """A gateway with TLS and without a plain port, and one protected object."""
    with gateway(with_archive(tmp_path_factory.mktemp("tls"), pki, archive)) as made:
        store_and_protect(made, pki)
        yield made


def with_archive(directory: Path, pki: Pki, archive: Archive, **more: Any) -> Site:
    place = {"ae_title": ARCHIVE, "host": "127.0.0.1", "port": archive.port, **more}
    grant = {"name": "all", "nodes": ["workstation"], "when": "true"}
    return secure_site(
        directory,
        pki,
        recovery={"port": 0, "destinations": [place]},
        grants=[{**grant, "move_destinations": [ARCHIVE, WORKSTATION]}],
    )


def store_and_protect(made: Gateway, pki: Pki) -> None:
    item = encoded(small())
    with called(made, calling(pki, pki.modality)) as association:
        assert store_bytes(association, item).status == 0x0000
    instance = made.index.instance(item.sop_instance_uid)
    assert instance is not None
    assert isinstance(item.data, bytes)
    made.protect(instance, item.data)


@contextmanager
def called(
    made: Gateway, tls: Any, title: str = MODALITY, to: str = RECEIVER, **options: Any
) -> Iterator[Association]:
    ports = made.running.ports
    port = ports.receiver if to == RECEIVER else ports.recovery
    assert port is not None
    contexts = options.pop("contexts", CONTEXTS)
    with associated(port, contexts, title, to, tls_args=tls, **options) as association:
        yield association


def study() -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = "1.2.3"
    return query


def other(uid: str) -> Dataset:
    """An object of another study than the one that is asked for."""
    return small(uid, StudyInstanceUID="1.2.9")


# Services, each as its own function: what a caller gets, or None if it is let in not


def store(made: Gateway, tls: Any, title: str | None) -> int | None:
    with called(made, tls, title or MODALITY) as association:
        if not association.is_established:
            return None
        return store_bytes(association, encoded(other("1.2.3.99"))).status


def find(made: Gateway, tls: Any, title: str | None) -> int | None:
    contexts = [(STUDY_FIND, EXPLICIT)]
    with called(
        made, tls, title or WORKSTATION, RECOVERY, contexts=contexts
    ) as association:
        if not association.is_established:
            return None
        answers = list(association.send_c_find(study(), STUDY_FIND))
        assert [status.Status for status, _ in answers] == [0xFF00, 0x0000]
        return 0


def move(made: Gateway, tls: Any, title: str | None) -> int | None:
    contexts = [(STUDY_MOVE, EXPLICIT)]
    with called(
        made, tls, title or WORKSTATION, RECOVERY, contexts=contexts
    ) as association:
        if not association.is_established:
            return None
        answers = list(association.send_c_move(study(), ARCHIVE, STUDY_MOVE))
        return int(answers[-1][0].Status)


def get(made: Gateway, tls: Any, title: str | None) -> int | None:
    arrived: list[bytes] = []

    def keep(event: evt.Event) -> int:
        arrived.append(event.request.DataSet.getvalue())
        return 0

    with called(
        made,
        tls,
        title or WORKSTATION,
        RECOVERY,
        contexts=[(STUDY_GET, EXPLICIT), *CONTEXTS],
        ext_neg=[build_role(CT_IMAGE, scp_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, keep)],
    ) as association:
        if not association.is_established:
            return None
        answers = list(association.send_c_get(study(), STUDY_GET))
    assert arrived == [encoded(small()).data]
    return int(answers[-1][0].Status)


Use = Callable[[Gateway, Any, str | None], int | None]
SERVICES: dict[str, Use] = {
    "C-STORE": store,
    "C-FIND": find,
    "C-MOVE": move,
    "C-GET": get,
}


@pytest.mark.parametrize("service", SERVICES)
def test_the_right_node_is_served(
    running: Gateway, pki: Pki, archive: Archive, service: str
) -> None:
    node = pki.modality if service == "C-STORE" else pki.workstation
    archive.arrivals.clear()

    assert SERVICES[service](running, calling(pki, node), None) == 0x0000

    if service == "C-MOVE":
        (arrival,) = archive.arrivals
        assert arrival.data == encoded(small()).data


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    ("shows", "why"),
    [
        (None, "no-certificate"),
        ("unknown", "unknown-authority"),
        ("stranger", "certificate-not-registered"),
        ("expired", "certificate-expired"),
        ("revoked", "certificate-revoked"),
        ("another", "ae-title-not-of-certificate"),
    ],
)
def test_whoever_is_not_the_node_is_refused_and_recorded(
    running: Gateway, pki: Pki, service: str, shows: str | None, why: str
) -> None:
    """The AE title is right in every case: it proves nothing."""
    if shows == "another":
        node: NodeFiles | None = (
            pki.workstation if service == "C-STORE" else pki.modality
        )
    else:
        node = None if shows is None else getattr(pki, shows)
    before = len(running.audited("association", "refused"))
    objects = running.index.counts()

    assert SERVICES[service](running, calling(pki, node), None) is None

    assert whys(running, before) == [why]
    entry = running.audited("association", "refused")[-1]
    assert entry["peer_address"] == "127.0.0.1"
    assert entry["service"] == ("receive" if service == "C-STORE" else "recover")
    assert running.index.counts() == objects


def whys(made: Gateway, before: int = 0) -> list[str]:
    """Why associations were refused since then; the peer may know it earlier."""
    wait_until(lambda: len(made.audited("association", "refused")) > before)
    return [e["why"] for e in made.audited("association", "refused")[before:]]


def test_there_is_no_way_around_tls(running: Gateway) -> None:
    """In clear, with the right AE title and address: no association, one line."""
    before = len(running.audited("association", "refused"))

    assert store(running, None, None) is None

    assert whys(running, before) == ["not-tls"]


def test_pynetdicoms_own_client_is_served(running: Gateway, pki: Pki) -> None:
    entity = AE(MODALITY)
    entity.add_requested_context(CT_IMAGE, EXPLICIT)
    port = running.running.ports.receiver
    assert port is not None
    association = entity.associate(
        "127.0.0.1",
        port,
        ae_title=RECEIVER,
        tls_args=(client_context(pki, pki.modality), HOST),
    )

    assert association.is_established
    assert association.send_c_store(as_file(other("1.2.3.77"))).Status == 0x0000
    association.release()

    assert association.is_released
    assert running.index.instance("1.2.3.77") is not None


def as_file(dataset: Dataset) -> Dataset:
    from pydicom.dataset import FileMetaDataset

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    return dataset


def test_large_objects_arrive_whole(running: Gateway, pki: Pki) -> None:
    """Many PDUs, many records each, some with their end in another record."""
    big = other("1.2.3.88")
    big.PixelData = bytes(range(256)) * 20_000
    big.BitsAllocated = 8
    item = encoded(big)

    with called(running, calling(pki, pki.modality)) as association:
        assert store_bytes(association, item).status == 0x0000

    instance = running.index.instance("1.2.3.88")
    assert instance is not None
    assert running.store.read_data_set(instance.path) == (item.data, EXPLICIT)


# Peers that do not get on with it


@contextmanager
def opened(port: int | None, number: int, sent: bytes = b"") -> Iterator[None]:
    assert port is not None
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
    try:
        for one in sockets:
            one.sendall(sent)
        yield
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01"])
def test_silent_peers_keep_nobody_out(running: Gateway, pki: Pki, sent: bytes) -> None:
    with opened(running.running.ports.receiver, 20, sent):
        started = time.monotonic()
        assert store(running, calling(pki, pki.modality), None) == 0x0000
        assert time.monotonic() - started < running.site.limits.handshake_seconds / 2


def test_silent_peers_are_recorded_at_the_deadline(tmp_path: Path, pki: Pki) -> None:
    settings = secure_site(tmp_path, pki, limits={"handshake_seconds": 0.2})
    with (
        gateway(settings) as made,
        opened(made.running.ports.receiver, 1),
        opened(made.running.ports.recovery, 1),
    ):
        wait_until(lambda: len(made.audited("association", "refused")) == 2)

        entries = made.audited("association", "refused")
    assert {entry["why"] for entry in entries} == {"handshake-timeout"}
    assert {entry["service"] for entry in entries} == {"receive", "recover"}


def test_a_stop_does_not_wait_for_silent_peers(tmp_path: Path, pki: Pki) -> None:
    settings = secure_site(tmp_path, pki, limits={"handshake_seconds": 60})
    threads = threading.active_count()
    with gateway(settings) as made:
        running_threads = threading.active_count()
        with opened(made.running.ports.receiver, 3):
            wait_until(lambda: threading.active_count() == running_threads + 3)
            started = time.monotonic()
            made.running.stop()
            assert time.monotonic() - started < 10
            assert threading.active_count() <= threads


# Files that change under a running gateway


@pytest.fixture
def changing(tmp_path: Path) -> Iterator[tuple[Gateway, Pki]]:
    own = pki_of(tmp_path / "pki")
    with gateway(secure_site(tmp_path / "site", own)) as made:
        yield made, own


def test_revocation_counts_at_once_for_new_associations(
    changing: tuple[Gateway, Pki],
) -> None:
    made, pki = changing
    with called(made, calling(pki, pki.modality)) as association:
        assert store_bytes(association, encoded(other("1.2.1"))).status == 0x0000

        pki.authority.revoke(pki.modality)
        wait_until(lambda: store(made, calling(pki, pki.modality), None) is None)

        assert whys(made) == ["certificate-revoked"]
        assert store_bytes(association, encoded(other("1.2.2"))).status == 0x0000
    assert len(made.audited("tls", "success")) == 1


def test_a_broken_file_is_recorded_once_and_the_old_ones_stay(
    changing: tuple[Gateway, Pki],
) -> None:
    made, pki = changing
    good = pki.gateway.certificate.read_bytes()

    pki.gateway.certificate.write_text("broken")

    def stored_and_recorded() -> bool:
        assert store(made, calling(pki, pki.modality), None) == 0x0000
        return bool(made.audited("tls", "failure"))

    wait_until(stored_and_recorded)
    assert store(made, calling(pki, pki.modality), None) == 0x0000
    (entry,) = made.audited("tls", "failure")
    assert "holds no certificate in PEM form" in entry["error"]

    pki.gateway.certificate.write_bytes(good)
    wait_until(
        lambda: (
            store(made, calling(pki, pki.modality), None) == 0x0000
            and len(made.audited("tls", "success")) == 1
        )
    )


def test_what_ends_soon_is_reminded_of_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = pki_of(tmp_path / "pki")
    own.authority.write_crl(period(-DAY, 3 * DAY))
    with gateway(secure_site(tmp_path / "site", own)):
        pass

    shown = capsys.readouterr()
    assert "revocation list" in shown.out + shown.err
    assert "renew it" in shown.out + shown.err


# Exports and moves


def identity_of(pki: Pki) -> TlsIdentity:
    return TlsIdentity(Tls.model_validate(pki.tls()), secrets_in(Path()))


def outward(port: int, **settings: object) -> Destination:
    return outside_destination(port, **({"plain": False} | settings))


def export(
    pki: Pki, port: int, *, tls: TlsIdentity | None = None, **settings: object
) -> list[SendResult]:
    items = [example("CT_small.dcm"), example("MR_small.dcm")]
    identity = tls or identity_of(pki)
    return list(send_objects(outward(port, **settings), items, RECEIVER, identity))


CLASSES = (CT_IMAGE, "1.2.840.10008.5.1.4.1.1.4")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tls_name": "archive.test"},
        {"certificates": ["fingerprint"], "tls_name": "whatever"},
    ],
)
def test_exports_go_to_the_expected_node(pki: Pki, settings: dict[str, Any]) -> None:
    if "certificates" in settings:
        settings = settings | {"certificates": [pki.archive.fingerprint]}
    outside = Outside()
    with outside.listening(CLASSES, server_context(pki, pki.archive)):
        results = export(pki, outside.port, **settings)

    assert [result.verdict for result in results] == [Verdict.SENT] * 2
    assert [data for _, data in outside.arrivals] == [
        example("CT_small.dcm").data,
        example("MR_small.dcm").data,
    ]


@pytest.mark.parametrize(
    ("settings", "shows", "why"),
    [
        ({}, "workstation", "wrong-name"),
        ({"tls_name": "modality.test"}, "expired", "certificate-expired"),
        ({"tls_name": "modality.test"}, "revoked", "certificate-revoked"),
        ({"tls_name": "modality.test"}, "unknown", "unknown-authority"),
        ({"certificates": ["archive"]}, "workstation", "wrong-certificate"),
    ],
)
def test_exports_to_another_node_wait_and_say_why(
    pki: Pki, settings: dict[str, Any], shows: str, why: str
) -> None:
    if "certificates" in settings:
        settings = settings | {"certificates": [pki.archive.certificate]}
    outside = Outside()
    with outside.listening(CLASSES, server_context(pki, getattr(pki, shows))):
        results = export(pki, outside.port, **settings)

    assert [result.verdict for result in results] == [Verdict.TRANSIENT] * 2
    assert why in results[0].error
    assert outside.arrivals == []
    assert outside.associations == 0


def test_a_node_that_refuses_the_gateway_is_told_by_name(pki: Pki) -> None:
    """With TLS 1.3 this side learns it only after its own handshake is over."""
    context = server_context(pki, pki.archive)
    outside = Outside()
    stranger = pki.other.node("gateway", dns=[HOST])
    tls = Tls.model_validate(
        pki.tls() | {"certificate": stranger.certificate, "key": stranger.key}
    )
    with outside.listening(CLASSES, context):
        results = export(pki, outside.port, tls=TlsIdentity(tls, secrets_in(Path())))

    assert {result.verdict for result in results} == {Verdict.TRANSIENT}
    assert "peer-refused-our-certificate: tlsv1 alert unknown ca" in results[0].error


class Wire:
    """Listens, answers nothing and keeps what it is sent."""

    def __init__(self) -> None:
        self.heard = b""

    @contextmanager
    def listening(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=self._listen, args=(listener,))
            thread.start()
            yield listener.getsockname()[1]
            thread.join()

    def _listen(self, listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            self.heard += accepted.recv(1 << 16)
            accepted.sendall(b"\x03\x00\x00\x00\x00\x04\x00\x01\x01\x01")  # A-ASSOC-RJ
            with suppress(ConnectionResetError):
                while piece := accepted.recv(1 << 16):
                    self.heard += piece


def test_a_node_without_tls_hears_nothing_in_clear(pki: Pki) -> None:
    wire = Wire()
    with wire.listening() as port:
        results = export(pki, port)

    assert {result.verdict for result in results} == {Verdict.TRANSIENT}
    assert "not-tls" in results[0].error
    assert wire.heard[:1] == b"\x16"  # a ClientHello
    assert RECEIVER.encode() not in wire.heard


def test_a_silent_node_is_given_up(pki: Pki) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        results = export(pki, port, timeout_seconds=0.3)

    assert "handshake-timeout" in results[0].error


def test_without_tls_settings_nothing_leaves() -> None:
    item = example("CT_small.dcm")

    (result,) = send_objects(outward(1), [item], RECEIVER, None)

    assert result.verdict is Verdict.TRANSIENT
    assert "there is no [tls] table" in result.error


def test_a_move_to_the_wrong_node_sends_nothing(tmp_path: Path, pki: Pki) -> None:
    archive = Archive()
    with (
        archive.listening(CONTEXTS, server_context(pki, pki.workstation)),
        gateway(with_archive(tmp_path, pki, archive)) as made,
    ):
        store_and_protect(made, pki)
        status = move(made, calling(pki, pki.workstation), None)

    assert status == 0xA702  # every sub-operation failed
    assert archive.associations == 0


def test_a_move_in_clear_is_only_made_where_that_is_said(
    tmp_path: Path, pki: Pki
) -> None:
    for plain, status in ((False, 0xA702), (True, 0x0000)):
        archive = Archive()
        with archive.listening(CONTEXTS):
            settings = with_archive(tmp_path / str(plain), pki, archive, plain=plain)
            with gateway(settings) as made:
                store_and_protect(made, pki)
                assert move(made, calling(pki, pki.workstation), None) == status
        assert len(archive.arrivals) == (1 if plain else 0)


def test_two_nodes_may_share_nothing_but_a_trusted_authority(
    tmp_path: Path, pki: Pki
) -> None:
    """A node pinned by its certificate is not another one with the same name."""
    twin = pki_of(tmp_path / "twin").authority  # only to have a second certificate
    assert twin.certificate != pki.authority.certificate
    again = pki.authority.node("twin", dns=["modality.test"])
    pinned = secure_node(
        "MODALITY",
        "store",
        certificates=[pki.modality.fingerprint],
        certificate_names=[],
    )
    with gateway(secure_site(tmp_path / "site", pki, nodes=[pinned])) as made:
        assert store(made, calling(pki, pki.modality), None) == 0x0000
        assert store(made, calling(pki, again), None) is None
        assert whys(made) == ["certificate-not-registered"]
