"""The settings of a site, as frozen values with units in their names."""

from __future__ import annotations

import re
import socket
from datetime import time
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

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


LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1"})
"""Hosts of connections that stay within this machine; "": a socket in a folder."""


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Fingerprint = Annotated[
    str, StringConstraints(pattern=r"^sha256:[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}$")
]
"""SHA-256 of a certificate's DER octets, as ``openssl x509 -fingerprint`` shows it."""

KeySource = Annotated[
    str, StringConstraints(pattern=r"^(file|env|credential|pkcs11):.+$")
]
"""Where a secret is: ``file:PATH`` (mode 0600), ``env:NAME``, ``credential:NAME``
(systemd's ``LoadCredential``), ``pkcs11:...`` (RFC 7512, master keys only)."""

Role = Literal["store", "read", "recover", "commit"]
"""``store``: send objects in, and ask whether they are kept. ``read``: find and
retrieve protected objects. ``recover``: find and retrieve originals, as far as a
grant says. ``commit``: report what it keeps of what it was sent."""

TransferSyntax = Literal[
    "as-stored",
    "explicit-little-endian",
    "implicit-little-endian",
    "rle",
    "jpeg-ls-lossless",
    "jpeg-2000-lossless",
]
"""How objects may be sent: as they lie here, or written anew without loss."""

PersonRole = Literal["viewer", "operator", "approver", "security"]
"""``viewer`` sees states, ``operator`` also releases and retries, ``approver`` may
be one of the two who approve a bulk recovery, ``security`` changes grants and sees
the audit trail."""


class Tls(Settings):
    """The gateway's certificate and whom it trusts (PS3.15 B.12, B.13)."""

    certificate: Path
    """PEM: its own first, then the intermediate ones."""
    key: Path
    """PEM private key, mode 0600."""
    key_passphrase: KeySource | None = None
    authorities: tuple[Path, ...] = Field(min_length=1)
    """PEM files of the authorities whose certificates are accepted."""
    revocation_lists: tuple[Path, ...] = ()
    """PEM files; if there is any, every authority needs its own."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    warn_days: int = Field(default=30, ge=0)
    """Certificates and revocation lists that end sooner are warned of."""


class Address(Settings):
    """Where an AE listens, and how it is known."""

    ae_title: AETitle
    host: str
    port: Port
    plain: bool = False
    """Call it without TLS. Not safe."""
    tls_name: str | None = None
    """Name its certificate must hold; absent: ``host``."""
    certificates: tuple[Path | Fingerprint, ...] = ()
    """Its certificates; then names do not count."""


class Node(Settings):
    """A machine that may call: how it is known, and what for."""

    name: Name
    ae_titles: tuple[AETitle, ...] = Field(min_length=1)
    """As which it may call; a certificate of another node may not."""
    roles: tuple[Role, ...] = Field(min_length=1)
    certificates: tuple[Path | Fingerprint, ...] = ()
    """Its certificates: PEM files or fingerprints. One of them must be shown."""
    certificate_names: tuple[str, ...] = ()
    """Instead: a DNS name or common name in a certificate of a trusted authority."""
    addresses: tuple[Network, ...] = ()
    """Where it calls from; empty: anywhere, if it shows its certificate."""
    plain: bool = False
    """May call without TLS, known by AE title and address only. Not safe."""
    move_destinations: tuple[AETitle, ...] = ()
    """Where it may have protected objects sent; empty: to itself only."""
    idle_seconds: float | None = Field(default=None, gt=0)
    """Completion idle time of this source; the site's default when absent."""
    commitment: Address | None = None
    """Where it takes reports of storage commitment; absent: only on the association
    on which it asked."""


class Person(Settings):
    """Someone who works at the gateway, known by a certificate."""

    name: Name
    roles: tuple[PersonRole, ...] = Field(min_length=1)
    certificates: tuple[Path | Fingerprint, ...] = Field(min_length=1)


class Grant(Settings):
    """Which originals nodes may have back. Nothing is granted by default."""

    name: Name
    nodes: tuple[Name, ...] = Field(min_length=1)
    when: str
    """CEL over the patient and study attributes of an original, and the AE title
    it came from (``calling_ae``); ``true`` for all."""
    move_destinations: tuple[AETitle, ...] = ()
    """Where they may have them sent; empty: to themselves only."""
    until: AwareDatetime | None = None
    """When it ends; absent: when it is revoked."""
    users: tuple[str, ...] = ()
    """Only for requests in the name of these (PS3.7 D.3.3.7); empty: for any."""


def _host_name() -> str:
    """Return this machine's name as a `Name`."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", socket.gethostname()).strip("-_.")
    return plain[:64] or "machine"


class Machine(Settings):
    """The machine these settings are for, among those that work on one site."""

    name: Name = Field(default_factory=_host_name)
    """Unlike that of every other; the host's name when absent."""


class Database(Settings):
    """A PostgreSQL server for the index and the jobs; absent: SQLite files here."""

    url: Annotated[
        str,
        StringConstraints(
            pattern=r"^postgresql://[^\s:@/?]+@([^\s@/?:]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/"
            r"[^\s@/?]+(\?host=/[^\s&]*)?$"
        ),
    ]
    """``postgresql://USER@HOST:PORT/NAME``, or ``postgresql://USER@/NAME?host=/FOLDER``
    for a socket of this machine. No password in it."""
    password: KeySource | None = None
    authorities: Path | None = None
    """PEM file of the authorities whose certificates the server may show; absent:
    those of the operating system."""
    plain: bool = False
    """Without TLS, also to another machine. Not safe."""
    jobs_schema: Annotated[
        str, StringConstraints(pattern=r"^[a-z_][a-z0-9_]{0,62}$")
    ] = "dbos"
    """Where the tables of the job queue lie, beside those of the index."""
    pool_connections: int = Field(default=8, ge=2)
    """Kept open per process; in a rush twice as many."""
    connect_seconds: float = Field(default=5.0, ge=1)
    patience_seconds: float = Field(default=20.0, ge=0)
    """How long a server that does not answer is waited for, before what needs it
    fails: a modality is then told to send again."""

    @property
    def is_local(self) -> bool:
        """Whether the connection stays within this machine."""
        return (urlsplit(self.url).hostname or "") in LOOPBACK


class Objects(Settings):
    """An S3-compatible object store for what several machines share."""

    endpoint: Annotated[
        str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(:[0-9]{1,5})?/?$")
    ]
    """``https://HOST:PORT``."""
    bucket: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    ]
    prefix: Annotated[
        str, StringConstraints(pattern=r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$")
    ] = ""
    """In front of the names of all objects of this site."""
    region: str = "us-east-1"
    access_key: KeySource
    secret_key: KeySource
    authorities: Path | None = None
    """PEM file of the authorities whose certificates the server may show; absent:
    those of the operating system."""
    plain: bool = False
    """Without TLS. Not safe, though what is sent is sealed before."""
    virtual_hosts: bool = False
    """The bucket is in the host's name, not in the path."""
    connect_seconds: float = Field(default=5.0, gt=0)
    timeout_seconds: float = Field(default=30.0, gt=0)
    """Of one request."""
    retries: int = Field(default=3, ge=0)
    """Of a request that failed in a way that may pass, within the next."""
    retry_seconds: float = Field(default=20.0, gt=0)

    @property
    def is_as_wanted(self) -> bool:
        """Whether it is reached over TLS, or need not be."""
        return self.plain or self.endpoint.startswith("https://")


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


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Hours(Settings):
    """A window of local time in which a destination takes objects."""

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1)
    """On which it begins."""
    start: time = Field(alias="from")
    until: time = Field(alias="to")
    """Not later than ``from``: on the next day."""

    @model_validator(mode="after")
    def _has_length(self) -> Hours:
        if self.start == self.until:
            raise ValueError(
                "from and to are the same time; leave hours out for the whole day"
            )
        if self.start.tzinfo is not None or self.until.tzinfo is not None:
            raise ValueError("times are of the site's timezone: write them plain")
        return self


Priority = Literal["urgent", "routine", "low"]


class Destination(Address):
    """A node outside to which objects are sent."""

    name: Name
    originals: bool = False
    """Whether unprotected originals may ever go there; default never."""
    recipients: tuple[Path, ...] = ()
    """X.509 certificates (PEM) of those who shall open the originals there: the
    key then travels in the object (PS3.15 E.1.1) and cannot be called back."""
    retry_first_seconds: float = Field(default=5.0, gt=0)
    retry_cap_seconds: float = Field(default=600.0, gt=0)
    give_up_after_hours: float = Field(default=336.0, ge=0)
    """What could not be sent for so long is held for a person; 0: never."""
    concurrency: int = Field(default=2, ge=1, le=64)
    """Series sent there at the same time, by all workers together."""
    rate_per_minute: int | None = Field(default=None, ge=1)
    """Series begun per minute, by all workers together; absent: no bound."""
    hours: tuple[Hours, ...] = ()
    """When it takes objects, in the site's ``timezone``; empty: always."""
    urgent_at_once: bool = True
    """Whether urgent series are sent outside the hours too."""
    timeout_seconds: float = Field(default=60.0, gt=0)
    failover: tuple[Address, ...] = ()
    """Further addresses of it, tried in this order when one cannot be reached."""
    failover_seconds: float = Field(default=60.0, ge=0)
    """So long an address that failed is not tried first again, if others are left."""
    transfer_syntaxes: tuple[TransferSyntax, ...] = Field(
        default=("as-stored", "explicit-little-endian", "implicit-little-endian"),
        min_length=1,
    )
    """What is offered, in the order of choice; never one with loss."""
    decompress_lossy: bool = False
    """Originals that lie here compressed with loss may be sent decompressed."""
    association_idle_seconds: float = Field(default=5.0, ge=0)
    """So long an association is kept for the next job; 0: never."""
    commitment: bool = False
    """Ask it to commit to what it was sent (storage commitment, PS3.4 J)."""
    commitment_at: Address | None = None
    """Another AE that is asked instead; absent: the address that took the object."""
    commitment_hours: float = Field(default=24.0, gt=0)
    """So long its report is waited for; then it is asked once more."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it may be reached, in the order of choice."""
        return (self, *self.failover)

    @property
    def called(self) -> tuple[Address, ...]:
        """Every AE of it that is called."""
        other = () if self.commitment_at is None else (self.commitment_at,)
        return (*self.addresses, *other)


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
    priority: Priority = "routine"
    """Urgent series are protected and sent before all others."""
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
    """Frames that share forward passes, as far as ``worker.memory_bytes`` allows."""
    max_frames: int = Field(default=8000, ge=1)
    """Memory does not depend on it; time does."""
    device: str = "auto"
    when_not_fooled: Literal["send", "hold"] = "send"
    """What to do with an image whose best mark did not change the prediction."""


class Jobs(Settings):
    """The record of the workers' jobs."""

    keep_days: float = Field(default=7.0, gt=0)
    """How long finished jobs can be looked up; what is held stays."""


MODELS_BYTES: Final = 928 << 20
"""Octets that a worker takes with torch and an ensemble loaded and used once."""


class Worker(Settings):
    """The process that routes, protects and sends."""

    processes: int = Field(default=1, ge=1, le=64)
    """How many of them ``serve`` runs on this machine."""
    silent_seconds: float = Field(default=30.0, ge=1.0)
    """A worker not heard of for so long is lost: others take up what it had."""
    cpu_threads: int = Field(default=0, ge=0)  # 0: torch's own choice
    stop_seconds: float = Field(default=20.0, gt=0)
    """How long a stop waits for work in hand; what is left is taken up again."""
    memory_bytes: int = Field(default=3 << 30, ge=5 << 28)
    """Of the process, models included. Batches of frames stay within half of it; an
    object one of whose frames needs more than all is held."""

    @property
    def frame_bytes(self) -> int:
        """What is left for one frame under work."""
        return self.memory_bytes - MODELS_BYTES

    @property
    def batch_bytes(self) -> int:
        """What is left for several frames under work."""
        return max(0, self.memory_bytes // 2 - MODELS_BYTES)


class Vault(Settings):
    """Where the master key is, which all keys at rest hang on."""

    master_key: KeySource = "file:secrets/master.key"
    """A relative file is meant from the data directory; made on first use."""
    previous_keys: tuple[KeySource, ...] = ()
    """Keys of before, while a rotation is under way."""


class Collector(Settings):
    """An audit record repository: syslog over TLS (RFC 5425)."""

    host: str
    port: Port = 6514
    tls_name: str | None = None
    """Name its certificate must hold; absent: ``host``."""
    certificates: tuple[Path | Fingerprint, ...] = ()
    """Its certificates; then names do not count."""
    message_id: Literal["DICOM+RFC3881", "IHE+RFC-3881"] = "DICOM+RFC3881"
    timeout_seconds: float = Field(default=30.0, gt=0)


class Audit(Settings):
    """The audit trail beyond the local file."""

    collector: Collector | None = None
    checkpoint_lines: int = Field(default=1000, ge=1)
    """A signed checkpoint after so many lines,"""
    checkpoint_seconds: float = Field(default=300.0, gt=0)
    """or so long after a line that none covers yet."""
    segment_bytes: int = Field(default=256 << 20, ge=1 << 16)
    """A file of the trail that is larger is closed, and a new one begun."""


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


class Disk(Settings):
    """How much of the disk stays free, of each file system in use.

    Of a small one at most a fortieth, a tenth, three twentieths and a quarter.
    """

    reserve_bytes: int = Field(default=512 << 20, ge=1 << 20)
    """Left to index, jobs, keys and audit trail: no object is written into it."""
    stop_free_bytes: int = Field(default=2 << 30, ge=1 << 20)
    """With less free, no object is begun: C-STORE is answered 0xA700."""
    resume_free_bytes: int = Field(default=3 << 30, ge=1 << 20)
    """Objects are accepted again from here."""
    retain_free_bytes: int = Field(default=20 << 30, ge=1 << 20)
    """With less free, retention takes what it may take early (``spare_days``)."""


class Keep(Settings):
    """How long something is kept, in days after it came and all of it was sent."""

    days: int | None = Field(default=None, ge=0)
    """Deleted after; absent: kept for ever."""
    spare_days: int | None = Field(default=None, ge=0)
    """May be deleted after so many days where the disk gets short; absent: no."""


class Retention(Settings):
    """What is deleted in the end. Nothing is, unless it is said here."""

    originals: Keep = Field(default_factory=Keep)
    """Files as received; never before all that is owed from them is delivered, and
    their recovery from key and protected object was tried."""
    protected: Keep = Field(default_factory=Keep)
    """Stays while the original has gone and its key is kept."""
    keys: Keep = Field(default_factory=Keep)
    """Never before the protected object has gone."""
    held_days: int | None = Field(default=None, ge=1)
    """Held objects: deleted after so many days; absent: never by age alone."""
    round_seconds: float = Field(default=300.0, gt=0)
    """Between two looks of the worker."""
    most_at_once: int = Field(default=500, ge=1)
    """Objects of one round."""


class Log(Settings):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


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
