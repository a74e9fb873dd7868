"""The settings of a site as a whole."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from config.schema.base import Name, Settings
from config.schema.destinations import Destination
from config.schema.keeping import Audit, Disk, Log, Retention, Vault
from config.schema.listening import Completion, Limits, Receiver, Recovery, Web
from config.schema.machines import Database, Machine, Objects
from config.schema.nodes import Grant, Node, Person, Tls
from config.schema.protection import Jobs, Protection, Worker
from config.schema.routing import Deidentification, Routing


class Site(Settings):
    """Everything a gateway needs to know."""

    name: Name = "site"
    data_directory: Path
    machine: Machine = Field(default_factory=Machine)
    database: Database | None = None
    objects: Objects | None = None
    timezone: str | None = None
    """IANA name of the local time that ``hours`` of destinations mean."""
    jobs: Jobs = Field(default_factory=Jobs)
    receiver: Receiver = Field(default_factory=Receiver)
    recovery: Recovery = Field(default_factory=Recovery)
    completion: Completion = Field(default_factory=Completion)
    tls: Tls | None = None
    nodes: tuple[Node, ...] = ()
    people: tuple[Person, ...] = ()
    grants: tuple[Grant, ...] = ()
    vault: Vault = Field(default_factory=Vault)
    audit: Audit = Field(default_factory=Audit)
    web: Web = Field(default_factory=Web)
    limits: Limits = Field(default_factory=Limits)
    destinations: tuple[Destination, ...] = ()
    routing: Routing = Field(default_factory=Routing)
    deidentification: tuple[Deidentification, ...] = ()
    protection: Protection = Field(default_factory=Protection)
    worker: Worker = Field(default_factory=Worker)
    disk: Disk = Field(default_factory=Disk)
    retention: Retention = Field(default_factory=Retention)
    log: Log = Field(default_factory=Log)
