"""Protects and recovers files without a running gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from config.schema import Protection
from gateway.dicom.identifiers import UidMapper, load_secret
from gateway.dicom.lenient import lenient, text
from gateway.dicom.parse import data_set_offset, parse_object
from gateway.dicom.restore import restore
from gateway.errors import GatewayError, Unprotectable
from gateway.route.attributes import attributes_of
from gateway.route.rules import load_checked
from gateway.stages.protect import Original, protect_object
from gateway.store.files import write_durably
from gateway.store.part10 import FileMeta, encode_head
from gateway.vault.vault import Vault, open_vault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.route.keywords import Value
    from gateway.stages.protect import Progress, ProtectedObject
    from gateway.stages.protectors import Protectors
    from gateway.vault.record import KeyRecord

SITE_FILE: Final = "site.toml"
PROTECTED: Final = ".protected.dcm"
DICOM: Final = ".dcm"
PREFIX: Final = b"DICM"
PREAMBLE_LENGTH: Final = 132


class AlreadyThere(GatewayError):
    """An output exists; it is replaced only when that is asked for."""


@dataclass(frozen=True)
class NoAssociation:
    """Association facts of a file: it came by none."""

    calling_ae: str = ""
    called_ae: str = ""
    peer_address: str = ""


@dataclass(frozen=True)
class OfflineSite:
    """A site directory: secrets, vault, and settings if it has a site file."""

    root: Path

    def vault(self) -> Vault:
        """Open the vault; its master key is made on first use."""
        return open_vault(self.root / "vault", self.root / "secrets" / "master.key")

    def uids(self) -> UidMapper:
        """Make the UID mapper; its secret is made on first use."""
        return UidMapper(load_secret(self.root / "secrets" / "uid.key"))

    def protection(self) -> Protection:
        """Read the settings of the site file; the defaults where there is none."""
        settings = self.root / SITE_FILE
        return load_checked(settings).protection if settings.is_file() else Protection()


def default_site(environ: Mapping[str, str] = os.environ) -> OfflineSite:
    """Site directory of this user, where the platform keeps such data."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    else:
        base = Path(environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return OfflineSite(base / "miad-gateway")


@dataclass(frozen=True)
class Job:
    """One input file.

    ``folder`` is where it lies below the folder that was named, ``named``
    whether the file itself was.
    """

    path: Path
    folder: Path
    named: bool

    @property
    def skipped(self) -> bool:
        """Whether it was only met in a folder, and is no DICOM file."""
        if self.named:
            return False
        with self.path.open("rb") as file:
            return file.read(PREAMBLE_LENGTH)[-len(PREFIX) :] != PREFIX


def find_files(paths: Sequence[Path]) -> Iterator[Job]:
    """Files to work on, in order of name; folders are searched to the bottom."""
    seen: set[Path] = set()
    for path in paths:
        found = _files_below(path) if path.is_dir() else [Job(path, Path(), True)]
        for job in found:
            if job.path.resolve() not in seen:
                seen.add(job.path.resolve())
                yield job


def _files_below(root: Path) -> list[Job]:
    return [
        Job(path, path.parent.relative_to(root), False)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]


class Outputs:
    """Where results go: nothing is overwritten, no two results share a name.

    Parameters
    ----------
    root
        Folder of the results.
    inputs
        Files that are never written to.
    force
        Whether files that are there are replaced.
    """

    def __init__(self, root: Path, inputs: Sequence[Path], *, force: bool) -> None:
        self._root = root
        self._taken = {path.resolve() for path in inputs}
        self._force = force

    def plan(self, folder: Path, name: str) -> Path:
        """Name for one result.

        Raises
        ------
        AlreadyThere
            A file of that name is there from before.
        """
        wanted = self._root / folder / name
        stem, number = _without_suffix(name), 2
        ending = name.removeprefix(stem)
        while wanted.resolve() in self._taken:
            wanted = self._root / folder / f"{stem}-{number}{ending}"
            number += 1
        if wanted.exists() and not self._force:
            raise AlreadyThere(f"{wanted} is there; use --force to replace it")
        self._taken.add(wanted.resolve())
        return wanted


def _without_suffix(name: str) -> str:
    return name.removesuffix(PROTECTED).removesuffix(DICOM)


@dataclass(frozen=True)
class FileProtection:
    """Protects files one by one into a folder, records into the vault."""

    protection: Protection
    protectors: Protectors
    uids: UidMapper
    vault: Vault
    outputs: Outputs
    force: bool

    def protect(self, job: Job, progress: Progress) -> tuple[Path, ProtectedObject]:
        """Protect one file; the record is durable before the result exists.

        Raises
        ------
        Unprotectable
            The file is held, with the reason.
        GatewayError
            The result is there already, or the vault refuses.
        """
        data = job.path.read_bytes()
        attributes = self._attributes(data)
        output = self.outputs.plan(
            job.folder, f"{_without_suffix(job.path.name)}{PROTECTED}"
        )
        made = protect_object(
            Original(data=data, kind="file", name=job.path.name),
            protector=self.protectors.choose(attributes),
            uids=self.uids,
            max_frames=self.protection.max_frames,
            when_not_fooled=self.protection.when_not_fooled,
            progress=progress,
        )
        self._check_record(made)
        self.vault.put(made.record)
        write_durably(output, made.part10)
        return output, made

    def _attributes(self, data: bytes) -> dict[str, Value]:
        offset, syntax = data_set_offset(data)
        dataset = parse_object(data[offset:], syntax).dataset
        with lenient():
            return attributes_of(dataset, NoAssociation(), self.protectors.keywords)

    def _check_record(self, made: ProtectedObject) -> None:
        """Keep the key of an earlier result with other pixels."""
        uid = made.sop_instance_uid
        if self.force or not self.vault.has(uid):
            return
        if self.vault.get(uid).protected_sha256 != made.record.protected_sha256:
            raise AlreadyThere(
                "this site protected the file before, with other settings; use "
                "--force to replace its key: results of then can no longer be recovered"
            )


@dataclass(frozen=True)
class FileRecovery:
    """Recovers files one by one into a folder."""

    record_of: Callable[[bytes], KeyRecord]
    """Key record of a protected Part 10 file; raises a GatewayError without one."""
    outputs: Outputs

    def recover(self, job: Job) -> Path:
        """Write the original of a protected file, under its own name.

        Raises
        ------
        GatewayError
            There is no record, or the original does not come back.
        """
        protected = job.path.read_bytes()
        record = self.record_of(protected)
        original = restore(protected, record)
        output = self.outputs.plan(job.folder, _original_name(record))
        write_durably(output, _as_file(original, record))
        return output


def vault_records(vault: Vault) -> Callable[[bytes], KeyRecord]:
    """Look records up in a vault, for `FileRecovery`."""
    return lambda part10: vault.get(_instance_uid(part10))


def _instance_uid(part10: bytes) -> str:
    offset, syntax = data_set_offset(part10)
    dataset = parse_object(part10[offset:], syntax).dataset
    uid = text(dataset, "SOPInstanceUID")
    if not uid:
        raise Unprotectable("missing-attribute", "SOPInstanceUID is missing or empty")
    return uid


def _original_name(record: KeyRecord) -> str:
    """Name of the original; folders are never taken from a record."""
    name = Path(record.original_name.replace("\\", "/")).name
    return name if name not in {"", ".", ".."} else f"{record.protected_uid}{DICOM}"


def _as_file(original: bytes, record: KeyRecord) -> bytes:
    """Give data sets that came over an association the head of a file."""
    if record.kind == "file":
        return original
    meta = FileMeta(
        sop_class_uid=record.sop_class_uid,
        sop_instance_uid=record.original_uid,
        transfer_syntax_uid=record.transfer_syntax_uid,
    )
    return encode_head(meta) + original
