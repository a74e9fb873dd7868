"""What is kept at rest, for how long, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from config.schema.base import Fingerprint, KeySource, Port, Settings


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
