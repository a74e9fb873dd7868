"""The temporary site of the demo, and the gateway process that serves it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.demo.nodes import LOOPBACK
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from gateway.demo.identities import Identities

MODALITY: Final = "MODALITY"
OUTSIDE: Final = "OUTSIDE"
WORKSTATION: Final = "WORKSTATION"
GATEWAY: Final = "MIAD-GATEWAY"
RECOVERY: Final = "MIAD-RECOVERY"
START_SECONDS: Final = 180.0

SITE: Final = """\
name = "demo"
data_directory = "{data}"

{tls}[receiver]
ae_title = "{gateway}"
{port} = 0

[recovery]
ae_title = "{recovery}"
{port} = 0

[[recovery.destinations]]
ae_title = "{workstation}"
host = "{loopback}"
port = {workstation_port}
{station}

[[nodes]]
name = "modality"
ae_titles = ["{modality}"]
roles = ["store"]
{modality_known}

[[nodes]]
name = "workstation"
ae_titles = ["{workstation}"]
roles = ["recover"]
{workstation_known}

[[grants]]
name = "workstation-everything"
nodes = ["workstation"]
when = "true"

[completion]
idle_seconds = 2.0
poll_seconds = 0.25

[[destinations]]
name = "outside"
ae_title = "{outside}"
host = "{loopback}"
port = {outside_port}
{outside_known}
retry_first_seconds = 0.5
retry_cap_seconds = 5.0

[[routing.rules]]
name = "all-images-leave-marked"
when = 'calling_ae == "{modality}"'
destinations = ["outside"]
protect = true
"""

TLS: Final = """\
[tls]
certificate = "{certificate}"
key = "{key}"
authorities = ["{authority}"]
revocation_lists = ["{revocation_list}"]
warn_days = 0

"""


class GatewayDidNotStart(GatewayError):
    """The gateway process ended, or did not listen in time."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the gateway listens: with TLS, if it does."""

    receiver: int
    recovery: int


def write_site(
    directory: Path,
    identities: Identities | None,
    *,
    outside_port: int,
    workstation_port: int,
) -> Path:
    """Write ``site.toml`` and return its path; without identities: in clear."""
    path = directory / "site.toml"
    path.write_text(
        SITE.format(
            data=(directory / "data").as_posix(),
            gateway=GATEWAY,
            recovery=RECOVERY,
            modality=MODALITY,
            workstation=WORKSTATION,
            outside=OUTSIDE,
            loopback=LOOPBACK,
            outside_port=outside_port,
            workstation_port=workstation_port,
            **_how_known(identities),
        ),
        "utf-8",
    )
    return path


def _how_known(identities: Identities | None) -> dict[str, str]:
    """Return the lines that say by what nodes are known."""
    if identities is None:
        plain = "plain = true"
        called = f'{plain}\naddresses = ["{LOOPBACK}/32"]'
        return {
            "tls": "",
            "port": "plain_port",
            "station": plain,
            "outside_known": plain,
            "modality_known": called,
            "workstation_known": called,
        }
    own = identities.gateway
    workstation = f'certificates = ["{identities.workstation.certificate}"]'
    return {
        "tls": TLS.format(
            certificate=own.certificate,
            key=own.key,
            authority=own.authority,
            revocation_list=identities.revocation_list,
        ),
        "port": "port",
        "station": workstation,
        "outside_known": 'tls_name = "outside.demo"',
        "modality_known": f'certificates = ["{identities.modality.certificate}"]',
        "workstation_known": workstation,
    }


class GatewayProcess:
    """``miad-gateway serve`` as a child process, for as long as the block lasts.

    Parameters
    ----------
    config, log
        The site file, and where what it says goes.
    module
        What runs instead of the command line, with the same words.
    """

    def __init__(
        self, config: Path, log: Path, module: str = "gateway.cli.main"
    ) -> None:
        self._module = module
        self._config = config
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", self._module, "serve"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*command, "--config", str(self._config)], stdout=log, stderr=log
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self, seconds: float) -> int:
        """Ask it to end (SIGTERM), and return its exit code.

        Raises
        ------
        GatewayDidNotStart
            It has not ended after so many seconds.
        """
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise GatewayDidNotStart(f"still there after {seconds} s") from error

    def kill(self) -> None:
        """End it at once, as a power cut would (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wait_for_ports(self, data: Path) -> Ports:
        """Wait until it listens.

        Raises
        ------
        GatewayDidNotStart
            With the end of its log.
        """
        path = data / "run" / "ports.json"
        self.wait_until(path.exists, START_SECONDS)
        found = json.loads(path.read_text("utf-8"))
        return Ports(
            receiver=found.get("receiver") or found["plain_receiver"],
            recovery=found.get("recovery") or found["plain_recovery"],
        )

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait until a condition holds, while the process lives.

        Raises
        ------
        GatewayDidNotStart
            When the process ends or the time is over.
        """
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not condition():
            if self._process is None or self._process.poll() is not None:
                raise GatewayDidNotStart(f"the gateway ended:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise GatewayDidNotStart(
                    f"nothing after {seconds:.0f} s:\n{self._tail()}"
                )
            pause.wait(0.1)

    def _tail(self) -> str:
        return self._log.read_text("utf-8", "replace")[-4000:]
