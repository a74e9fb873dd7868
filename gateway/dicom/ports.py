"""Where the AE titles listen: sockets that one or several processes accept from."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from config.schema import Site

BACKLOG: Final = 128
"""Of 5 a burst of connections would fill every place."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the two AE titles listen, after port 0 was resolved; None: nowhere.

    Attributes
    ----------
    receiver, recovery
        With TLS.
    plain_receiver, plain_recovery
        Without.
    """

    receiver: int | None = None
    recovery: int | None = None
    plain_receiver: int | None = None
    plain_recovery: int | None = None


def addresses_of(site: Site) -> dict[str, tuple[str, int]]:
    """Return host and port of every port in use, by its name in `Ports`."""
    addresses = {}
    for name, end in (("receiver", site.receiver), ("recovery", site.recovery)):
        if site.tls is not None:
            addresses[name] = (end.host, end.port)
        if end.plain_port is not None:
            addresses[f"plain_{name}"] = (end.host, end.plain_port)
    return addresses


def bind_ports(site: Site) -> dict[str, socket.socket]:
    """Listen on every port, or on none; whoever inherits a socket may accept.

    Raises
    ------
    OSError
        An address cannot be bound.
    """
    bound: dict[str, socket.socket] = {}
    try:
        for name, address in addresses_of(site).items():
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            bound[name] = socket.create_server(address, family=family, backlog=BACKLOG)
            # Another process may be faster: then `accept` has to come back.
            bound[name].setblocking(False)
    except BaseException:
        for listening in bound.values():
            listening.close()
        raise
    return bound
