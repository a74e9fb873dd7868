"""Options of ``recover`` that open the keys travelling in files."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.errors import PassphraseMissing, PrivateKeyRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.x509 import Certificate

    from gateway.vault.record import KeyRecord

KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        dir_okay=False,
        metavar="KEY.pem",
        help="Your private key: opens the keys that travel in the files; no vault is "
        "used.",
    ),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        dir_okay=False,
        metavar="CERT.pem",
        help="Your certificate, as the sending site has it; may stand in KEY.pem too.",
    ),
]
SignerOption = Annotated[
    Path | None,
    typer.Option(
        "--signer",
        dir_okay=False,
        metavar="SITE.pem",
        help="Certificate of the sending site (miad-gateway keys signer): keys signed "
        "by others are refused.",
    ),
]
PassphraseOption = Annotated[
    str | None,
    typer.Option(
        "--key-passphrase-env",
        metavar="NAME",
        help="Environment variable with the passphrase of KEY.pem; without it you are "
        "asked.",
    ),
]


@dataclass(frozen=True)
class EnclosedOptions:
    """What was said about keys in files."""

    key: Path | None
    certificate: Path | None
    signer: Path | None
    passphrase_env: str | None
    _signers: dict[str, None] = field(default_factory=dict)

    def check(self, *, vault_named: bool) -> None:
        """Refuse options that contradict each other.

        Raises
        ------
        typer.BadParameter
            Naming them.
        """
        if self.key is not None and vault_named:
            raise typer.BadParameter("either --site (its vault) or --key, not both")
        alone = {
            "--certificate": self.certificate,
            "--signer": self.signer,
            "--key-passphrase-env": self.passphrase_env,
        }
        for name, given in alone.items():
            if given is not None and self.key is None:
                raise typer.BadParameter(f"{name} is for use with --key")

    def records(self) -> Callable[[bytes], KeyRecord]:
        """Make what opens the key of a file.

        Raises
        ------
        PrivateKeyRefused
            A file named is not what it should be.
        """
        from gateway.stages.offline_enclosed import EnclosedRecords
        from gateway.vault.recipients import load_recipient_key

        if self.key is None:
            raise PrivateKeyRefused("no private key was named; give --key")
        return EnclosedRecords(
            key=load_recipient_key(self.key, self.certificate, self._passphrase),
            trusted_signer=self._trusted(),
            seen=self._seen,
        ).record_of

    def tell_signers(self) -> None:
        """Say who signed, if nobody said who should have."""
        if self.signer is None:
            for each in self._signers:
                typer.echo(
                    f"signed by SHA-256 {each}; compare it with what the sending site "
                    "tells you, or name its certificate with --signer",
                    err=True,
                )

    def _seen(self, certificate: Certificate) -> None:
        from gateway.vault.signer import fingerprint

        self._signers[fingerprint(certificate)] = None

    def _trusted(self) -> Certificate | None:
        from gateway.vault.recipients import read_certificate

        return None if self.signer is None else read_certificate(self.signer)

    def _passphrase(self) -> bytes:
        if self.passphrase_env is not None:
            found = os.environ.get(self.passphrase_env, "")
            if not found:
                raise PassphraseMissing(
                    f"environment variable {self.passphrase_env} is not set; it should "
                    f"hold the passphrase of {self.key}"
                )
            return found.encode()
        if not sys.stdin.isatty():
            raise PassphraseMissing(
                f"the private key {self.key} is encrypted; put its passphrase into an "
                "environment variable and name it with --key-passphrase-env"
            )
        asked: str = typer.prompt(
            f"Passphrase of {self.key}", hide_input=True, err=True
        )
        return asked.encode()
