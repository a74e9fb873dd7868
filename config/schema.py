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


class RetrievingNode(Settings):
    """A node that may find objects and have them sent.

    In ``recovery.nodes`` the objects are originals, in ``receiver.readers`` the
    protected ones.
    """

    ae_title: AETitle
    addresses: tuple[Network, ...] = Field(min_length=1)
    move_destinations: tuple[AETitle, ...] = ()
    """Where it may have them sent; empty: to itself only."""


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
    readers: tuple[RetrievingNode, ...] = ()
    """Who may find and retrieve protected objects here; never originals."""


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
    nodes: tuple[RetrievingNode, ...] = ()
    destinations: tuple[MoveDestination, ...] = ()
    """The address behind each AE title that C-MOVE may name, on either AE."""


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
    recipients: tuple[Path, ...] = ()
    """X.509 certificates (PEM) of those who shall open the originals there: the
    key then travels in the object (PS3.15 E.1.1) and cannot be called back."""
    retry_first_seconds: float = Field(default=5.0, gt=0)
    retry_cap_seconds: float = Field(default=600.0, gt=0)
    timeout_seconds: float = Field(default=60.0, gt=0)


Custody = Literal["auto", "key", "sealed-original"]
"""How originals are kept: the paper's key sequence, the sealed octets, or the
smaller of the two that verifies."""

NonImages = Literal["hold", "pass", "drop"]
"""``pass``: the object leaves with its references rewritten to protected UIDs."""


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
    custody: Custody = "auto"
    non_images: NonImages = "hold"
    """What becomes of reports, documents, plans, segmentations ... if `protect`."""
    deidentify: Name | None = None
    """Name of a ``[[deidentification]]`` table; only with `protect`."""
    uids: Literal["keep", "map"] = "keep"
    """Study and frame of reference UIDs of protected objects."""
    tests: tuple[RuleTest, ...] = ()


class Routing(Settings):
    """The rules, in order, and how they combine."""

    match: Literal["first", "all"] = "first"
    rules: tuple[Rule, ...] = ()
    """Nothing matches: the instance is held."""
    rules_files: tuple[Path, ...] = ()
    """Files of further ``[[rules]]``, taken after those above, in order."""


DeidentificationOption = Literal[
    "clean-graphics",
    "clean-structured-content",
    "clean-descriptors",
    "retain-longitudinal-full-dates",
    "retain-longitudinal-modified-dates",
    "retain-patient-characteristics",
    "retain-device-identity",
    "retain-institution-identity",
    "retain-uids",
    "retain-safe-private",
]
"""Options of the Basic Application Level Confidentiality Profile (PS3.15 E.3)."""


class Deidentification(Settings):
    """A profile rules may ask for: PS3.15 Annex E, Basic Profile and options."""

    name: Name
    options: tuple[DeidentificationOption, ...] = ()


class Window(Settings):
    """A window in rescaled units, as a viewer's preset (PS3.3 C.11.2.1.2)."""

    center: float
    width: float = Field(gt=1)


class WindowPresets(Settings):
    """Windows under which images of a kind are looked at."""

    when: str
    """CEL over DICOM keywords, as in rules."""
    windows: tuple[Window, ...] = Field(min_length=1, max_length=4)


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
    windows: tuple[WindowPresets, ...] = ()
    """The first whose condition holds adds its windows to the image's own."""
    max_own_windows: int = Field(default=2, ge=1, le=4)
    """How many of the windows an image brings are judged."""
    one_bit: Literal["hold", "convert"] = "hold"
    """Bitmaps: held, or shown as 8 bits and marked."""
    split_frames: Literal["auto", "never", "always"] = "auto"
    """Whether frames of a grey multi-frame image become objects of their own:
    ``auto`` where HU or a rescale that varies by frame would be lost."""
    batch_frames: int = Field(default=8, ge=1)
    """Frames that share forward passes; the bound of memory."""
    max_frames: int = Field(default=2000, ge=1)
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
    deidentification: tuple[Deidentification, ...] = ()
    protection: Protection = Field(default_factory=Protection)
    worker: Worker = Field(default_factory=Worker)
    log: Log = Field(default_factory=Log)
