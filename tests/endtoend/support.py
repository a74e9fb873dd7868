"""A whole gateway as a child process, for tests that talk to it as peers do."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from config.load import load_site
from gateway.app.openers import open_index_of, open_keys_of, open_store_of
from gateway.demo.nodes import StorageNode, data_set_of, send_cases
from gateway.demo.site import GATEWAY, MODALITY, OUTSIDE, WORKSTATION, GatewayProcess
from tests.endtoend.sites import plain_nodes, plain_places

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from gateway.demo.cases import Case
    from gateway.store.index import Index

# A real search and a real δ, with a budget that keeps a test short.
SITE = """\
name = "test"
data_directory = "{data}"

[receiver]
ae_title = "MIAD-GATEWAY"
plain_port = 0

[recovery]
ae_title = "MIAD-RECOVERY"
plain_port = 0

{nodes}
{places}
[[grants]]
name = "everything"
nodes = ["orthanc", "workstation"]
when = "true"

[completion]
idle_seconds = 1.0
poll_seconds = 0.2

[[destinations]]
name = "outside"
ae_title = "OUTSIDE"
host = "127.0.0.1"
port = {outside_port}
plain = true
retry_first_seconds = 0.3
retry_cap_seconds = 2.0

[protection]
max_frames = 50
params.delta.iterations = 2
params.search.budget = 16
"""

EVERYTHING = """
[[routing.rules]]
name = "everything-leaves-marked"
when = 'true'
destinations = ["outside"]
protect = true
"""

LONG_SECONDS = 240.0


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Ports of the nodes around the gateway."""

    outside: int
    workstation: int
    orthanc: int = 1


class Gateway:
    """``miad-gateway serve`` on a temporary site; may be killed and started again."""

    def __init__(self, directory: Path, ports: Ports, rules: str = EVERYTHING) -> None:
        self.data = directory / "data"
        self.config = directory / "site.toml"
        self.config.write_text(
            SITE.format(
                data=self.data.as_posix(),
                outside_port=ports.outside,
                nodes=plain_nodes(
                    MODALITY=["store"],
                    STORESCU=["store"],
                    DCMSEND=["store"],
                    ORTHANC=["store", "recover"],
                    WORKSTATION=["recover"],
                ),
                places=plain_places(
                    WORKSTATION=ports.workstation, ORTHANC=ports.orthanc
                ),
            )
            + rules
        )
        self.log = directory / "gateway.log"
        self._process: GatewayProcess | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        if kind is not None:
            sys.stderr.write(self.log.read_text("utf-8", "replace")[-6000:])

    def start(self) -> None:
        (self.data / "run" / "ports.json").unlink(missing_ok=True)
        self._process = self._stack.enter_context(GatewayProcess(self.config, self.log))
        self.ports = self._process.wait_for_ports(self.data)

    def kill(self) -> None:
        """Kill -9 the supervisor; its children must go with it."""
        assert self._process is not None
        self._process.kill()

    def stop(self, seconds: float) -> int:
        """Stop it with SIGTERM, as a service manager does; its exit code."""
        assert self._process is not None
        return self._process.stop(seconds)

    def index(self) -> Index:
        site = load_site(self.config, environ={})
        return open_index_of(site, open_keys_of(site))

    def stored(self, relative: str) -> bytes:
        """A whole file of the store, opened with the site's key."""
        site = load_site(self.config, environ={})
        with open_store_of(site, open_keys_of(site)).open(relative) as stream:
            return stream.read()

    def send(self, cases: Sequence[Case], calling_ae: str = MODALITY) -> list[int]:
        return send_cases(
            cases, calling_ae=calling_ae, called_ae=GATEWAY, port=self.ports.receiver
        )

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gateway.cli.main", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=LONG_SECONDS,
        )

    def wait(
        self, condition: Callable[[], bool], seconds: float = LONG_SECONDS
    ) -> None:
        assert self._process is not None
        self._process.wait_until(condition, seconds)


__all__ = [
    "GATEWAY",
    "MODALITY",
    "OUTSIDE",
    "WORKSTATION",
    "Gateway",
    "Ports",
    "StorageNode",
    "data_set_of",
]
