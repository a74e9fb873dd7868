"""What listens, and what a peer may take."""

from __future__ import annotations

from pydantic import Field

from config.schema.base import AETitle, Port, Settings
from config.schema.nodes import Address


class Receiver(Settings):
    """The storage SCP."""

    ae_title: AETitle = "MIAD-GATEWAY"
    host: str = "127.0.0.1"
    port: Port = 2762
    """With TLS; in use if there is a ``[tls]`` table."""
    plain_port: Port | None = None
    """Without TLS, for nodes with ``plain = true``; absent: none."""
    max_pdu_bytes: int = Field(default=1 << 20, ge=1 << 12)
    processes: int = Field(default=0, ge=0, le=32)
    """That receive side by side; 0: as many as there are CPUs, four at most."""
    max_associations: int = Field(default=64, ge=1)
    """At the same time, on each AE title, over all processes."""
    max_associations_per_node: int | None = Field(default=None, ge=1)
    """Of them, for one node; absent: half of them."""
    max_object_bytes: int = Field(default=4 << 30, ge=1 << 20)
    network_timeout_seconds: float = Field(default=60.0, gt=0)
    commitment_hours: float = Field(default=72.0, gt=0)
    """So long a report of storage commitment is tried; then it is given up."""


class MoveDestination(Address):
    """An AE title that C-MOVE may name, with its address."""


class Recovery(Settings):
    """The query/retrieve SCP that serves originals."""

    ae_title: AETitle = "MIAD-RECOVERY"
    host: str = "127.0.0.1"
    port: Port = 2763
    """With TLS; in use if there is a ``[tls]`` table."""
    plain_port: Port | None = None
    """Without TLS, for nodes with ``plain = true``; absent: none."""
    destinations: tuple[MoveDestination, ...] = ()
    """The address behind each AE title that C-MOVE may name, on either AE."""
    two_person_above: int | None = Field(default=None, ge=0)
    """More originals than this for one node in the window need two approvers;
    absent: never."""
    two_person_window_minutes: float = Field(default=60.0, gt=0)


class Completion(Settings):
    """When a series counts as whole."""

    idle_seconds: float = Field(default=60.0, gt=0)
    poll_seconds: float = Field(default=1.0, gt=0)


class Web(Settings):
    """Console and DICOMweb over HTTPS; needs ``[tls]``."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: Port = 8443
    max_connections: int = Field(default=128, ge=1)
    """At the same time, of those with a certificate; more are told to come later."""


class Limits(Settings):
    """What one peer may take before it has shown that it means well."""

    handshake_seconds: float = Field(default=10.0, gt=0)
    """From the connection to the end of the TLS handshake."""
    request_seconds: float = Field(default=30.0, gt=0)
    """Until the association request has come whole."""
    pdu_seconds: float = Field(default=60.0, gt=0)
    """From the first to the last octet of a PDU."""
    connections_per_address: int = Field(default=64, ge=1)
    """At the same time."""
    connections_per_second: float = Field(default=50.0, gt=0)
    """From one address, in the long run."""
    connection_burst: int = Field(default=200, ge=1)
    unidentified_connections: int = Field(default=64, ge=1)
    """At the same time, of all that have not been admitted yet."""
    requests_per_second: float = Field(default=2000.0, gt=0)
    """DIMSE requests of one association, in the long run; more are slowed down."""
    max_command_bytes: int = Field(default=1 << 16, ge=1 << 10)
    """Of a DIMSE command set."""
    max_identifier_bytes: int = Field(default=1 << 20, ge=1 << 10)
    """Of a query's data set."""
    max_sequence_depth: int = Field(default=64, ge=8)
    max_inflated_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Of a deflated data set or frame, unpacked."""
