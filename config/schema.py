"""The settings of a site, as frozen values with units in their names."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from engine.params import ProtectParams

AETitle = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        min_length=1,
        max_length=16,
        pattern=r"^[\x20-\x5b\x5d-\x7e]+$",  # PS3.5 6.2: no backslash, no control
    ),
]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Port = Annotated[int, Field(ge=0, le=65535)]  # 0: any free port, reported at start
Network = IPv4Network | IPv6Network


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Peer(Settings):
    """A node that may call: AE title and the addresses it calls from."""

    ae_title: AETitle
    addresses: tuple[Network, ...] = Field(min_length=1)
    idle_seconds: float | None = Field(default=None, gt=0)
    """Completion idle time of this source; the site's default when absent."""


class Receiver(Settings):
    """The storage SCP."""

    ae_title: AETitle = "MIAD-GATEWAY"
    host: str = "127.0.0.1"
    port: Port = 11112
    max_pdu_bytes: int = Field(default=1 << 20, ge=0)  # 0: no limit (PS3.8 D.1)
    max_associations: int = Field(default=32, ge=1)
    max_object_bytes: int = Field(default=4 << 30, ge=1 << 20)
    network_timeout_seconds: float = Field(default=60.0, gt=0)
    peers: tuple[Peer, ...] = ()


class RecoveryNode(Settings):
    """A node that may find and retrieve originals."""

    ae_title: AETitle
    addresses: tuple[Network, ...] = Field(min_length=1)
    move_destinations: tuple[AETitle, ...] = ()
    """Where it may have originals sent; empty: to itself only."""


class MoveDestination(Settings):
    """An AE title that C-MOVE may name, with its address."""

    ae_title: AETitle
    host: str
    port: Port


class Recovery(Settings):
    """The query/retrieve SCP that serves originals."""

    ae_title: AETitle = "MIAD-RECOVERY"
    host: str = "127.0.0.1"
    port: Port = 11113
    nodes: tuple[RecoveryNode, ...] = ()
    destinations: tuple[MoveDestination, ...] = ()


class Completion(Settings):
    """When a series counts as whole."""

    idle_seconds: float = Field(default=60.0, gt=0)
    poll_seconds: float = Field(default=1.0, gt=0)


class Destination(Settings):
    """A node outside to which objects are sent."""

    name: Name
    ae_title: AETitle
    host: str
    port: Port
    originals: bool = False
    """Whether unprotected originals may ever go there; default never."""
    retry_first_seconds: float = Field(default=5.0, gt=0)
    retry_cap_seconds: float = Field(default=600.0, gt=0)
    timeout_seconds: float = Field(default=60.0, gt=0)


class RuleTest(Settings):
    """An example that a rule must decide as said; tried at every load."""

    attributes: dict[str, str | bool | int | float | list[str | int | float]]
    """DICOM keyword or association fact -> value; all others are absent."""
    expect: bool


class Rule(Settings):
    """One routing rule: a CEL condition and what follows from it."""

    name: Name
    when: str
    destinations: tuple[Name, ...] = Field(min_length=1)
    protect: bool
    tests: tuple[RuleTest, ...] = ()


class Routing(Settings):
    """The rules, in order, and how they combine."""

    match: Literal["first", "all"] = "first"
    rules: tuple[Rule, ...] = ()
    """Nothing matches: the instance is held."""
    rules_files: tuple[Path, ...] = ()
    """Files of further ``[[rules]]``, taken after those above, in order."""


class Ensemble(Settings):
    """Which images a diagnosis ensemble speaks for."""

    name: Name
    when: str
    """CEL over DICOM keywords, as in rules."""
    directory: Path | None = None
    """Absent: the packaged ensemble of that name."""


class Protection(Settings):
    """The engine's settings."""

    ensembles: tuple[Ensemble, ...] = (
        Ensemble(
            name="brain-mri",
            when='Modality == "MR" && BodyPartExamined in ["HEAD", "BRAIN"]',
        ),
    )
    """First whose condition holds; none: the label-free objective."""
    logo: Path | None = None
    params: ProtectParams = Field(default_factory=ProtectParams)
    max_frames: int = Field(default=200, ge=1)
    device: str = "auto"
    when_not_fooled: Literal["send", "hold"] = "send"
    """What to do with an image whose best mark did not change the prediction."""


class Worker(Settings):
    """The process that routes, protects and sends."""

    cpu_threads: int = Field(default=0, ge=0)  # 0: torch's own choice
    stop_seconds: float = Field(default=20.0, gt=0)
    """How long a stop waits for work in hand; what is left is taken up again."""


class Log(Settings):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Site(Settings):
    """Everything a gateway needs to know."""

    name: Name = "site"
    data_directory: Path
    receiver: Receiver = Field(default_factory=Receiver)
    recovery: Recovery = Field(default_factory=Recovery)
    completion: Completion = Field(default_factory=Completion)
    destinations: tuple[Destination, ...] = ()
    routing: Routing = Field(default_factory=Routing)
    protection: Protection = Field(default_factory=Protection)
    worker: Worker = Field(default_factory=Worker)
    log: Log = Field(default_factory=Log)
