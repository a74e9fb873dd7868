"""Key records from the protected files themselves, for recipients' own use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.dicom.enclosed import open_enclosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.x509 import Certificate

    from gateway.vault.recipients import RecipientKey
    from gateway.vault.record import KeyRecord


@dataclass(frozen=True)
class EnclosedRecords:
    """Opens the key that travels in a protected file; no vault is needed.

    Attributes
    ----------
    key
        Of the recipient.
    trusted_signer
        Certificate of the site that must have signed; None: any.
    seen
        Told of the signer of each record that was opened.
    """

    key: RecipientKey
    trusted_signer: Certificate | None
    seen: Callable[[Certificate], None]

    def record_of(self, part10: bytes) -> KeyRecord:
        """Key record of a protected Part 10 file.

        Raises
        ------
        GatewayError
            It carries none, or it does not open.
        """
        opened = open_enclosed(part10, self.key, trusted_signer=self.trusted_signer)
        self.seen(opened.signer)
        return opened.record
