"""S3-compatible servers on loopback.

``localbucket`` keeps objects as files, so that it can be killed and started again,
but knows no checksums and no keys. ``moto`` knows more of the protocol and keeps
objects in memory only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typing_extensions import override

from config.schema import Objects
from gateway.store.objects import Bucket, ObjectBlobs
from tests.endtoend.peers import free_port, listening
from tests.waiting import wait_until

BUCKET = "miad"
KINDS = ("localbucket", "moto")
PROGRAMS = Path(sys.executable).parent


class ObjectServer:
    """An S3-compatible server; its objects stay where it is stopped and started."""

    def __init__(self, folder: Path, kind: str = "localbucket") -> None:
        self.folder = folder / "buckets"
        self.port = free_port()
        self._kind = kind
        self._log = folder / f"{kind}.log"
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / BUCKET).mkdir(parents=True, exist_ok=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = {
            "localbucket": ["localbucket", "--port", str(self.port), str(self.folder)],
            "moto": ["moto_server", "-H", "127.0.0.1", "-p", str(self.port)],
        }[self._kind]
        command[0] = str(PROGRAMS / command[0])
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment
            )
        wait_until(lambda: listening(self.port))
        if self._kind == "moto":
            made = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
            urllib.request.urlopen(made, timeout=30).close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


@contextmanager
def object_server(folder: Path, kind: str = "localbucket") -> Iterator[ObjectServer]:
    server = ObjectServer(folder, kind)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Front:
    """A proxy before an object server that can be told to misbehave.

    Attributes
    ----------
    fault
        ``""``, ``500``: it fails, ``403``: it refuses, ``507``: it is full,
        ``unconditional``: it forgets conditions.
    requests
        Method and path of all that came.
    """

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.fault = ""
        self.requests: list[tuple[str, str]] = []
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                front.requests.append((self.command, self.path))
                if front.fault.isdigit():
                    self._answer(int(front.fault), b"<Error/>", [])
                    return
                # urllib would say it is a form.
                headers = {"Content-Type": "application/octet-stream"}
                headers |= dict(self.headers)
                if front.fault == "unconditional":
                    headers.pop("if-none-match", None)
                asked = urllib.request.Request(
                    front.behind + self.path,
                    data=body,
                    headers=headers,
                    method=self.command,
                )
                try:
                    with urllib.request.urlopen(asked, timeout=30) as answer:
                        self._answer(answer.status, answer.read(), answer.getheaders())
                except urllib.error.HTTPError as error:
                    with error:
                        self._answer(
                            error.code, error.read(), list(error.headers.items())
                        )

            def _answer(
                self, status: int, body: bytes, headers: list[tuple[str, str]]
            ) -> None:
                self.send_response(status)
                sizes = [v for k, v in headers if k.lower() == "content-length"]
                for name, value in headers:
                    if name.lower() not in {
                        "content-length",
                        "connection",
                        "transfer-encoding",
                        "date",
                        "server",
                    }:
                        self.send_header(name, value)
                whole = sizes[0] if self.command == "HEAD" and sizes else len(body)
                self.send_header("Content-Length", str(whole))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

            @override
            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def listening(self) -> Iterator[Front]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)


def settings_of(endpoint: str, **more: object) -> Objects:
    """Settings of a store on loopback that fails soon."""
    return Objects.model_validate(
        {
            "endpoint": endpoint,
            "bucket": BUCKET,
            "prefix": "site-1",
            "access_key": "env:MIAD_TEST_ACCESS_KEY",
            "secret_key": "env:MIAD_TEST_SECRET_KEY",
            "plain": True,
            "connect_seconds": 2,
            "timeout_seconds": 10,
            "retries": 0,
            **more,
        }
    )


class ThreadLocks:
    """Locks by name between threads of a test."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self.taken: list[str] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            self.taken.append(name)
            yield


def blobs_at(
    endpoint: str, spool: Path, patience_seconds: float = 0.0, **more: object
) -> ObjectBlobs:
    bucket = Bucket(
        settings=settings_of(endpoint, **more),
        access_key="miadtestkey",
        secret_key="miadtestsecret",
    )
    return ObjectBlobs(bucket.open(), spool, ThreadLocks(), patience_seconds)


@pytest.fixture(scope="module", params=KINDS)
def any_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObjectServer]:
    """A server of each kind in turn, for a module."""
    with object_server(tmp_path_factory.mktemp("bucket"), request.param) as server:
        yield server
