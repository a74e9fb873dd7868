"""DCMTK's tools against the receiver: peers that nobody here wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from gateway.store.part10 import read_head
from tests.endtoend.peers import ENVIRONMENT, dcmtk, tool
from tests.gateway.outside import unused_port
from tests.gateway.scp import (
    Gateway,
    example,
    gateway,
    grant,
    move_place,
    node,
    site,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.peers

FILES = ("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm")
COMPRESSED = {
    "-xs": "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "-xr": "SC_rgb_rle.dcm",
    "-xv": "MR_small_jp2klossless.dcm",
    "-xw": "JPEG2000.dcm",
    "-xt": "MR_small_jpeg_ls_lossless.dcm",
}


def run(
    program: str, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = dcmtk(program, *arguments)
    if check:
        done.check_returncode()
    return done


def path_of(name: str) -> str:
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str)
    return path


@contextmanager
def storescp(directory: Path) -> Iterator[int]:
    """DCMTK's storescp, writing what it is sent bit for bit."""
    directory.mkdir()
    port = unused_port()
    with subprocess.Popen(
        [tool("storescp"), "-aet", "ARCHIVE", "+B", "-od", str(directory), str(port)],
        env=ENVIRONMENT,
    ) as process:
        try:
            wait_until(lambda: echo(port))
            yield port
        finally:
            process.terminate()


def echo(port: int) -> bool:
    done = run("echoscu", "127.0.0.1", str(port), check=False)
    return done.returncode == 0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Gateway]:
    with storescp(tmp_path / "archive") as archive_port:
        settings = site(
            tmp_path,
            nodes=[node("STORESCU", "store"), node("READER", "recover")],
            grants=[grant("READER", "ARCHIVE")],
            recovery={"destinations": [move_place("ARCHIVE", archive_port)]},
        )
        with gateway(settings) as listening:
            yield listening


def storescu(running: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    where = ("-aec", "MIAD-GATEWAY", "127.0.0.1", str(running.port))
    return run("storescu", "-v", *where, *arguments)


def test_storescu_sends_and_is_told_of_success(running: Gateway) -> None:
    for name in FILES[:2]:
        done = storescu(running, path_of(name))
        assert "Success" in done.stdout + done.stderr
        item = example(name)
        instance = running.index.instance(item.sop_instance_uid)
        assert instance is not None
        assert instance.calling_ae == "STORESCU"


@pytest.mark.parametrize(("option", "name"), COMPRESSED.items())
def test_storescu_sends_compressed_objects_as_they_are(
    running: Gateway, option: str, name: str
) -> None:
    done = storescu(running, option, path_of(name))
    assert "Success" in done.stdout + done.stderr
    item = example(name)
    instance = running.index.instance(item.sop_instance_uid)
    assert instance is not None
    assert instance.transfer_syntax_uid == item.transfer_syntax_uid


def test_a_stranger_is_told_that_its_title_is_not_known(running: Gateway) -> None:
    done = run(
        "echoscu",
        *("-aet", "STRANGER", "-aec", "MIAD-GATEWAY"),
        *("127.0.0.1", str(running.port)),
        check=False,
    )
    assert done.returncode != 0
    assert "Calling AE Title Not Recognized" in done.stderr


def test_findscu_and_movescu_recover_a_study(running: Gateway, tmp_path: Path) -> None:
    storescu(running, path_of("CT_small.dcm"))
    item = example("CT_small.dcm")
    instance = running.index.instance(item.sop_instance_uid)
    assert instance is not None
    stored, _ = running.store.read_data_set(instance.path)
    running.protect(instance, stored)
    study = instance.study_instance_uid
    where = ("-aet", "READER", "-aec", "MIAD-RECOVERY", "127.0.0.1")
    port = str(running.recovery_port)
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}")
    found = run("findscu", "-S", *where, port, *keys, "-k", "ModalitiesInStudy")
    assert "[CT]" in found.stdout + found.stderr
    moved = run("movescu", "-v", "-S", "-aem", "ARCHIVE", *where, port, *keys)
    assert "Success" in moved.stdout + moved.stderr
    (path,) = (tmp_path / "archive").iterdir()
    with path.open("rb") as stream:
        meta = read_head(stream)
        assert stream.read() == stored
    assert meta.transfer_syntax_uid == instance.transfer_syntax_uid


def test_movescu_is_told_that_it_may_not(running: Gateway, tmp_path: Path) -> None:
    storescu(running, path_of("CT_small.dcm"))
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2")
    for destination, answer in (("NOWHERE", "0xa801"), ("ARCHIVE", "Success")):
        done = run(
            *("movescu", "-d", "-S", "-aem", destination, "-aet", "READER"),
            *("-aec", "MIAD-RECOVERY", "127.0.0.1", str(running.recovery_port)),
            *keys,
            check=False,
        )
        assert answer in done.stdout + done.stderr
    assert list((tmp_path / "archive").iterdir()) == []
