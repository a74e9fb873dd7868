"""DCMTK and Orthanc as processes on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

# Debian's builds wait 40 ms per message without it.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def free_port() -> int:
    """A port that was free a moment ago: these peers cannot take port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tool(name: str) -> str:
    """Find DCMTK's or Orthanc's program, also where a virtual environment is first.

    pynetdicom installs programs of the same names beside the interpreter.
    """
    own = Path(sys.executable).parent.resolve()
    others = [p for p in os.get_exec_path() if Path(p).resolve() != own]
    found = shutil.which(name, path=os.pathsep.join([*others, "/usr/sbin"]))
    assert found is not None, f"{name} is not installed"
    return found


def dcmtk(
    program: str, *arguments: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool(program), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=ENVIRONMENT,
    )


@contextmanager
def storescp(
    directory: Path, ae_title: str, *options: str, syntaxes: str = "+xa"
) -> Iterator[int]:
    """DCMTK's storescp, writing what it gets bit by bit."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with _process(
        [
            tool("storescp"),
            *("-od", str(directory)),
            *("-aet", ae_title),
            "--bit-preserving",
            syntaxes,
            *options,
            "--unique-filenames",
            str(port),
        ],
        directory / "storescp.log",
        port,
    ):
        yield port


@contextmanager
def orthanc(
    directory: Path, ae_title: str, modalities: dict[str, list[Any]]
) -> Iterator[Orthanc]:
    """Debian's Orthanc with an empty database."""
    directory.mkdir(parents=True, exist_ok=True)
    http, dicom = free_port(), free_port()
    settings = {
        "Name": ae_title,
        "DicomAet": ae_title,
        "DicomPort": dicom,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": True,
        "HttpPort": http,
        "HttpBindAddresses": ["127.0.0.1"],
        "RemoteAccessAllowed": False,
        "StorageDirectory": str(directory / "db"),
        "IndexDirectory": str(directory / "db"),
        "Plugins": [],
        "DicomModalities": modalities,
        "OverwriteInstances": False,
    }
    config = directory / "orthanc.json"
    config.write_text(json.dumps(settings))
    node = Orthanc(f"http://127.0.0.1:{http}", dicom)
    with _process([tool("Orthanc"), str(config)], directory / "orthanc.log", http):
        wait_until(lambda: listening(dicom))
        yield node


class Orthanc:
    """The REST interface of a running Orthanc."""

    def __init__(self, url: str, dicom_port: int) -> None:
        self.url = url
        self.dicom_port = dicom_port

    def get(self, path: str) -> Any:
        return json.loads(self.file(path))

    def file(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return bytes(answer.read())

    def delete(self, path: str) -> None:
        request = urllib.request.Request(self.url + path, method="DELETE")
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()

    def call(self, method: str, path: str, body: object) -> Any:
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body).encode(), method=method
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read() or b"null")


@contextmanager
def _process(command: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=ENVIRONMENT)
    try:
        wait_until(lambda: listening(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
