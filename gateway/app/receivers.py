"""The receiving processes: one, or several that accept from the same sockets.

Where there are several, the process that was started binds the ports and looks
after the others; it opens no key and no object.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final

from config.load import load_site
from config.schema import Receiver, Site
from gateway.app.places import Places
from gateway.app.process import begin_with, check_tls, only_one, write_ports
from gateway.app.sharing import Sharing
from gateway.audit.log import AuditLog
from gateway.audit.process import recorded
from gateway.dicom.counts import clear_counts, make_counts
from gateway.dicom.ports import Ports, addresses_of, bind_ports
from gateway.errors import GatewayError
from gateway.log import get_logger
from gateway.supervise import Child, Supervisor, on_stop_signal

MOST_BY_DEFAULT: Final = 4
STOP_SECONDS: Final = 15.0
"""Longer than a receiving process waits for its associations."""


def run_receivers(config: Path) -> None:
    """Receive and give back until SIGTERM or SIGINT, in as many processes as set.

    Raises
    ------
    GatewayError
        A port cannot be bound.
    SystemExit
        A process could not start; it has said why.
    """
    site, places = begin_with(load_site, config)
    processes = processes_of(site.receiver)
    if processes == 1:
        from gateway.app.receiver import run_receiver

        run_receiver(config)
        return
    check_tls(site)
    with only_one(places, "receiver") as lock, ExitStack() as stack:
        try:
            sockets = bind_ports(site)
        except OSError as error:
            raise not_bound(site, error) from error
        for listening in sockets.values():
            stack.callback(listening.close)
        with recorded(AuditLog(places.audit), "receiver", site):
            Receivers(config, places, sockets, lock.fileno()).run(processes)


def processes_of(settings: Receiver) -> int:
    """Return how many processes receive."""
    available = len(os.sched_getaffinity(0))
    return settings.processes or min(available, MOST_BY_DEFAULT)


def not_bound(site: Site, error: OSError) -> GatewayError:
    """Say that ports are not to be had."""
    where = ", ".join(f"{host}:{port}" for host, port in addresses_of(site).values())
    return GatewayError(f"cannot listen on {where}: {error.strerror or error}")


class Receivers:
    """Several receiving processes, started again when they end.

    Parameters
    ----------
    config
        The site's file.
    places
        Where its ports are told.
    sockets
        Listening, by the name of their port.
    lock
        Descriptor that the processes keep open: while one of them lives, no
        other receiver starts in this data directory.
    """

    def __init__(
        self,
        config: Path,
        places: Places,
        sockets: dict[str, socket.socket],
        lock: int,
    ) -> None:
        self._config = config
        self._places = places
        self._sockets = sockets
        self._ports = {name: s.getsockname()[1] for name, s in sockets.items()}
        self._lock = lock
        self._ready: set[int] = set()
        self._code: int | None = None
        self._supervisor: Supervisor | None = None

    def run(self, processes: int) -> None:
        """Supervise until SIGTERM or SIGINT.

        Raises
        ------
        SystemExit
            A process ended before it had ever received.
        """
        counts = make_counts(processes)
        hears, tells = os.pipe()
        children = [self._child(n, counts, tells) for n in range(processes)]
        self._supervisor = Supervisor(
            children, STOP_SECONDS, ended=partial(self._ended, counts)
        )
        threading.Thread(
            target=self._listen, args=(hears, processes), name="ready", daemon=True
        ).start()
        try:
            with on_stop_signal(self._stop):
                self._supervisor.run()
        finally:
            self._places.ports.unlink(missing_ok=True)
            os.close(tells)
            os.close(counts)
        if self._code is not None:
            raise SystemExit(self._code)

    def _child(self, number: int, counts: int, tells: int) -> Child:
        sharing = Sharing(
            number=number,
            counts=counts,
            ready=tells,
            sockets={name: s.fileno() for name, s in self._sockets.items()},
        )
        command = [sys.executable, "-m", "gateway.cli.main", "receiver"]
        options = ["--config", str(self._config.absolute())]
        options += ["--lifeline", "{lifeline}", "--sharing", sharing.encode()]
        return Child(
            name=f"receiver-{number}",
            command=[*command, *options],
            descriptors=(self._lock, *sharing.descriptors),
        )

    def _stop(self) -> None:
        """Refuse new connections, then end the processes."""
        for listening in self._sockets.values():
            listening.close()
        if self._supervisor is not None:
            self._supervisor.stop()

    def _ended(self, counts: int, child: Child, code: int | None) -> None:
        """Free the places of a process; end all where it had never received."""
        number = int(child.name.rpartition("-")[2])
        clear_counts(counts, number)
        if number not in self._ready:
            self._code = code if code is not None and code > 0 else 1
            self._stop()

    def _listen(self, hears: int, processes: int) -> None:
        """Say where the ports are once every process receives."""
        while number := os.read(hears, 1):
            fresh = number[0] not in self._ready
            self._ready.add(number[0])
            if fresh and len(self._ready) == processes:
                write_ports(self._places.ports, asdict(Ports(**self._ports)))
                get_logger("receiver").info(
                    "listening", processes=processes, **self._ports
                )
        os.close(hears)
