"""Where objects are sent, when and how."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from config.schema.base import Name, Settings
from config.schema.nodes import Address

TransferSyntax = Literal[
    "as-stored",
    "explicit-little-endian",
    "implicit-little-endian",
    "rle",
    "jpeg-ls-lossless",
    "jpeg-2000-lossless",
]
"""How objects may be sent: as they lie here, or written anew without loss."""

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
