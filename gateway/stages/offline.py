"""Protects and recovers files without a running gateway."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from config.schema import Protection, Worker
from config.schema import Vault as VaultSettings
from gateway.dicom.identifiers import UidMapper, load_secret
from gateway.dicom.lenient import lenient, text
from gateway.dicom.parse import data_set_offset, parse_object
from gateway.dicom.restore import instance_uid, restore
from gateway.errors import GatewayError, KeyNotEnclosed, RecoveryRefused
from gateway.route.attributes import attributes_of
from gateway.route.rules import load_checked
from gateway.sealing.ring import KeyRing, open_ring
from gateway.sealing.secrets import SecretStore
from gateway.stages.draft import Original
from gateway.stages.marking import Marking, Memory
from gateway.stages.protect import ObjectProtection, protect_object
from gateway.store.files import write_durably
from gateway.store.part10 import FileMeta, encode_head
from gateway.vault.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from config.schema import Site
    from gateway.route.keywords import Value
    from gateway.stages.marking import Progress
    from gateway.stages.protect import ProtectedObject
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
        return Vault(self.root / "vault", self.keys)

    def uids(self) -> UidMapper:
        """Make the UID mapper; its secret is made on first use."""
        return UidMapper(load_secret(self.secrets()))

    def secrets(self) -> SecretStore:
        """Open the secrets that are sealed under the master key."""
        return SecretStore(self.root / "secrets", self.keys)

    def protection(self) -> Protection:
        """Read the settings of the site file; the defaults where there is none."""
        settings = self._settings()
        return Protection() if settings is None else settings.protection

    @cached_property
    def keys(self) -> KeyRing:
        """Master keys, from where the site file says.

        Raises
        ------
        ConfigurationError
            One is missing, others may reach it, or it is not a key.
        """
        settings = self._settings()
        vault = VaultSettings() if settings is None else settings.vault
        return open_ring(vault, self.root)

    def _settings(self) -> Site | None:
        path = self.root / SITE_FILE
        return load_checked(path) if path.is_file() else None


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


@dataclass(frozen=True, kw_only=True)
class FileProtection:
    """Protects files one by one into a folder, records into the vault.

    Files of one series that follow each other are marked as neighbours.
    """

    protection: Protection
    protectors: Protectors
    uids: UidMapper
    vault: Vault
    outputs: Outputs
    force: bool
    traces: bool = False
    memory: Memory = field(default_factory=Memory)

    def protect(
        self, job: Job, progress: Progress
    ) -> tuple[list[Path], ProtectedObject]:
        """Protect one file; the record is durable before the results exist.

        Returns
        -------
        tuple
            The files, one or one for each frame, and what they hold.

        Raises
        ------
        Unprotectable
            The file is held, with the reason.
        GatewayError
            A result is there already, or the vault refuses.
        """
        data = job.path.read_bytes()
        attributes, series = self._attributes(data)
        stem = _without_suffix(job.path.name)
        first = self.outputs.plan(job.folder, f"{stem}{PROTECTED}")
        made = protect_object(
            Original(data=data, kind="file", name=job.path.name),
            protection=ObjectProtection(
                marking=Marking(
                    protector=self.protectors.choose(attributes),
                    batch_frames=self.protection.batch_frames,
                    series=series,
                    memory=self.memory,
                    progress=progress,
                    batch_bytes=Worker().batch_bytes,
                ),
                uids=self.uids,
                when_not_fooled=self.protection.when_not_fooled,
                traces=self.traces,
            ),
            reading=self.protectors.reading(attributes),
        )
        self._check_record(made)
        further = [
            self.outputs.plan(job.folder, f"{stem}.{number}{PROTECTED}")
            for number in range(2, len(made.parts) + 1)
        ]
        self.vault.put(made.record)
        for path, part in zip((first, *further), made.parts, strict=True):
            write_durably(path, part.part10)
        return [first, *further], made

    def _attributes(self, data: bytes) -> tuple[dict[str, Value], str]:
        """Return what conditions see of a file, and its series."""
        offset, syntax = data_set_offset(data)
        dataset = parse_object(data[offset:], syntax).dataset
        with lenient():
            found = attributes_of(dataset, NoAssociation(), self.protectors.keywords)
            return found, text(dataset, "SeriesInstanceUID")

    def _check_record(self, made: ProtectedObject) -> None:
        """Keep the key of an earlier result with other pixels."""
        uid = made.sop_instance_uid
        if self.force or not self.vault.has(uid):
            return
        if self.vault.get(uid).parts != made.record.parts:
            raise AlreadyThere(
                "this site protected the file before, with other settings; use "
                "--force to replace its key: results of then can no longer be recovered"
            )


RecordOf = Callable[[bytes], "KeyRecord"]
"""Gives the key record of a protected object (a Part 10 file)."""


def record_in(vault: Vault) -> RecordOf:
    """Look records up in a vault."""
    return lambda part10: vault.get(instance_uid(part10))


class FileRecovery:
    """Recovers originals of files into a folder.

    Where frames became files of their own, all of them have to be among the files,
    unless the record holds the whole original.

    Parameters
    ----------
    record_of
        Gives the record of a protected object.
    outputs
        Where originals go.
    files
        All protected files that are at hand.
    """

    def __init__(
        self, record_of: RecordOf, outputs: Outputs, files: Sequence[Path]
    ) -> None:
        self._record_of = record_of
        self._outputs = outputs
        self._files = files
        self._done: dict[tuple[Path, str], Path] = {}

    def recover(self, job: Job) -> Path:
        """Write the original of a protected file, under its own name.

        A further file of the same original gives what is there by now.

        Raises
        ------
        GatewayError
            There is no record, or the original does not come back.
        """
        protected = job.path.read_bytes()
        uid = instance_uid(protected)
        record = self._record(uid, protected)
        place = (job.folder, record.protected_uid)
        if len(record.parts) > 1 and place in self._done:
            return self._done[place]
        known = {uid: protected}
        original = restore(lambda uid: self._load(uid, known), record)
        output = self._outputs.plan(job.folder, _original_name(record))
        write_durably(output, _as_file(original, record))
        self._done[place] = output
        return output

    def _record(self, uid: str, protected: bytes) -> KeyRecord:
        """Return the record of a file, or the one another file of its original has."""
        try:
            return self._record_of(protected)
        except KeyNotEnclosed:
            if uid not in self._records:
                raise
            return self._records[uid]

    @cached_property
    def _records(self) -> dict[str, KeyRecord]:
        """The records of all files by the objects they are of."""
        found: dict[str, KeyRecord] = {}
        for path in self._files:
            with suppress(GatewayError, OSError):
                record = self._record_of(path.read_bytes())
                found |= {part.uid: record for part in record.parts}
        return found

    def _load(self, uid: str, known: Mapping[str, bytes]) -> bytes:
        if uid in known:
            return known[uid]
        path = self._by_uid.get(uid)
        if path is None:
            raise RecoveryRefused(
                f"the protected object {uid} is missing: its original became several "
                "files; give all of them"
            )
        return path.read_bytes()

    @cached_property
    def _by_uid(self) -> dict[str, Path]:
        """The files by their UIDs; read when one of several is asked for."""
        found: dict[str, Path] = {}
        for path in self._files:
            with suppress(GatewayError, OSError):
                found[instance_uid(path.read_bytes())] = path
        return found


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
