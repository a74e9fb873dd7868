"""The settings of a site, as frozen values with units in their names.

A module for each group of tables; all names are had from here.
"""

from __future__ import annotations

from config.schema.base import (
    LOOPBACK,
    AETitle,
    Fingerprint,
    KeySource,
    Name,
    Network,
    Port,
    Settings,
)
from config.schema.destinations import DAYS, Day, Destination, Hours, TransferSyntax
from config.schema.keeping import Audit, Collector, Disk, Keep, Log, Retention, Vault
from config.schema.listening import (
    Completion,
    Limits,
    MoveDestination,
    Receiver,
    Recovery,
    Web,
)
from config.schema.machines import Database, Machine, Objects
from config.schema.nodes import Address, Grant, Node, Person, PersonRole, Role, Tls
from config.schema.protection import (
    MODELS_BYTES,
    Ensemble,
    Jobs,
    Protection,
    Window,
    WindowPresets,
    Worker,
)
from config.schema.routing import (
    Custody,
    Deidentification,
    DeidentificationOption,
    NonImages,
    Priority,
    Routing,
    Rule,
    RuleTest,
)
from config.schema.site import Site

__all__ = [
    "DAYS",
    "LOOPBACK",
    "MODELS_BYTES",
    "AETitle",
    "Address",
    "Audit",
    "Collector",
    "Completion",
    "Custody",
    "Database",
    "Day",
    "Deidentification",
    "DeidentificationOption",
    "Destination",
    "Disk",
    "Ensemble",
    "Fingerprint",
    "Grant",
    "Hours",
    "Jobs",
    "Keep",
    "KeySource",
    "Limits",
    "Log",
    "Machine",
    "MoveDestination",
    "Name",
    "Network",
    "Node",
    "NonImages",
    "Objects",
    "Person",
    "PersonRole",
    "Port",
    "Priority",
    "Protection",
    "Receiver",
    "Recovery",
    "Retention",
    "Role",
    "Routing",
    "Rule",
    "RuleTest",
    "Settings",
    "Site",
    "Tls",
    "TransferSyntax",
    "Vault",
    "Web",
    "Window",
    "WindowPresets",
    "Worker",
]
