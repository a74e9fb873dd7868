"""What a rule asks to be done to an object on its way to one destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from config.schema import Custody, NonImages


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """How objects are protected for a destination.

    Attributes
    ----------
    custody
        How their originals are kept.
    non_images
        What becomes of objects without pictures.
    deidentify
        Name of a deidentification profile, or ''.
    uids
        Whether study and frame of reference keep their UIDs.
    recipients_of
        Destination whose recipients' certificates the key is enclosed for, or ''.
    """

    custody: Custody = "auto"
    non_images: NonImages = "hold"
    deidentify: str = ""
    uids: Literal["keep", "map"] = "keep"
    recipients_of: str = ""

    @property
    def key(self) -> str:
        """What tells its protected objects from those of others; '' is the plain one.

        What is to become of other objects makes no difference to a picture.
        """
        parts = {
            "custody": "" if self.custody == "auto" else self.custody,
            "deidentify": self.deidentify,
            "uids": "" if self.uids == "keep" else self.uids,
            "for": self.recipients_of,
        }
        return ";".join(f"{name}={value}" for name, value in parts.items() if value)


PLAIN: Final = Treatment()
"""What a rule asks for that says nothing but ``protect = true``."""
