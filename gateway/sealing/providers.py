"""Where secrets come from: files, the environment, systemd, tokens.

A source is written in the settings as ``KIND:WHERE`` (`config.schema.KeySource`).
No message here holds an octet of a secret.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Hashable, MutableMapping
from pathlib import Path
from typing import Final, Protocol

from gateway.errors import ConfigurationError
from gateway.sealing.master import KEY_LENGTH, FileMasterKey, LocalMasterKey, MasterKey
from gateway.sealing.secretfile import load_existing, read_private

FILE: Final = "file"
ENV: Final = "env"
CREDENTIAL: Final = "credential"
PKCS11: Final = "pkcs11"

CREDENTIALS_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
"""Names the folder in which systemd puts ``LoadCredential`` files."""

MAX_SECRET: Final = 1 << 16
"""Octets of the largest secret read from anywhere."""


class Environment:
    """Secrets in environment variables, taken out when they are first read.

    Children started afterwards do not inherit them. What the kernel shows of
    this process itself (``/proc/PID/environ``) stays as it was at its start;
    `gateway.sealing.process.harden_process` leaves it to root alone.

    Parameters
    ----------
    variables
        Usually `os.environ`.
    """

    def __init__(self, variables: MutableMapping[str, str]) -> None:
        self._variables = variables
        self._taken: dict[str, str] = {}

    def take(self, name: str) -> str:
        """Value of a variable, also when it was taken before.

        Raises
        ------
        ConfigurationError
            It is not set.
        """
        value = self._variables.pop(name, None)
        if value:
            self._taken[name] = value
        if name not in self._taken:
            raise ConfigurationError(
                f"the environment variable {name} is not set; set it for this "
                "service, or name another source in the settings"
            )
        return self._taken[name]

    def folder_of_credentials(self) -> Path:
        """Return the folder of systemd's credentials.

        Raises
        ------
        ConfigurationError
            This process was given none.
        """
        folder = self._variables.get(CREDENTIALS_DIRECTORY)
        if not folder:
            raise ConfigurationError(
                f"{CREDENTIALS_DIRECTORY} is not set: credentials are handed out by "
                "systemd only; add LoadCredential= to the unit, or name another "
                "source in the settings"
            )
        return Path(folder)


PROCESS: Final = Environment(os.environ)
"""The environment of this process, of which there is one."""


class Provider(Protocol):
    """One source of a master key."""

    def load(self) -> MasterKey:
        """Read the key, or open it where it stays.

        Raises
        ------
        ConfigurationError
            There is none, or it is not a key.
        """

    def stamp(self) -> Hashable:
        """Return what changes when the source does; cheap."""


class FileProvider:
    """A master key in a file.

    Parameters
    ----------
    path
        The file, mode 0600.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> MasterKey:
        """Read the key; see `Provider`."""
        try:
            return load_master_key(self.path)
        except FileNotFoundError as error:
            raise ConfigurationError(
                f"master key {self.path} is gone; restore it from its backup"
            ) from error

    def secret(self) -> bytes:
        """Return the octets of the key, for its backup."""
        return load_existing(self.path, KEY_LENGTH)

    def make(self) -> MasterKey:
        """Read the key; made where there is none."""
        return FileMasterKey(self.path)

    def stamp(self) -> Hashable:
        """Return inode, time and size of the file, None where there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def load_master_key(path: Path) -> MasterKey:
    """Master key of a file that is there.

    Raises
    ------
    FileNotFoundError
        There is none.
    ConfigurationError
        Others may reach it, or it is not a key.
    """
    return LocalMasterKey(load_existing(path, KEY_LENGTH))


class EnvironmentProvider:
    """A master key in an environment variable: base64 of 32 octets."""

    def __init__(self, name: str, environment: Environment) -> None:
        self._name = name
        self._environment = environment

    def load(self) -> MasterKey:
        """Decode the key; see `Provider`."""
        return LocalMasterKey(self.secret())

    def secret(self) -> bytes:
        """Return the octets of the key, for its backup."""
        value = self._environment.take(self._name)
        key = _decoded(value.encode("utf-8", "replace"))
        if key is None:
            raise ConfigurationError(
                f"the environment variable {self._name} is not the base64 of "
                f"{KEY_LENGTH} octets; make one with: openssl rand -base64 32"
            )
        return key

    def stamp(self) -> Hashable:
        """Return what never changes: the environment is that of the start."""
        return self._name


class CredentialProvider:
    """A master key in a credential of systemd: 32 octets, or base64 of them."""

    def __init__(self, name: str, environment: Environment) -> None:
        self._name = name
        self._environment = environment

    def load(self) -> MasterKey:
        """Read the key; see `Provider`."""
        return LocalMasterKey(self.secret())

    def secret(self) -> bytes:
        """Return the octets of the key, for its backup."""
        octets = _credential(self._name, self._environment)
        key = octets if len(octets) == KEY_LENGTH else _decoded(octets)
        if key is None:
            raise ConfigurationError(
                f"the credential {self._name} is neither {KEY_LENGTH} octets nor "
                "their base64; make one with: openssl rand 32"
            )
        return key

    def stamp(self) -> Hashable:
        """Return what never changes: systemd hands credentials out at the start."""
        return self._name


def provider_of(
    source: str, base_directory: Path, environment: Environment = PROCESS
) -> Provider:
    """Return the provider of a source of the settings.

    Parameters
    ----------
    source
        ``file:PATH``, ``env:NAME``, ``credential:NAME`` or ``pkcs11:...``.
    base_directory
        From which a relative path is meant.
    environment
        Of the process.

    Raises
    ------
    ConfigurationError
        No such source.
    """
    kind, where = _split(source)
    if kind == FILE:
        return FileProvider(base_directory / where)
    if kind == ENV:
        return EnvironmentProvider(where, environment)
    if kind == CREDENTIAL:
        return CredentialProvider(where, environment)
    from gateway.sealing.token import token_provider

    return token_provider(source, base_directory, environment)


def read_secret(
    source: str, base_directory: Path, environment: Environment = PROCESS
) -> bytes:
    """Octets of a passphrase or PIN, without the end of its line.

    Parameters
    ----------
    source
        ``file:PATH`` (mode 0600), ``env:NAME`` or ``credential:NAME``.
    base_directory
        From which a relative path is meant.
    environment
        Of the process.

    Raises
    ------
    ConfigurationError
        There is none, others may reach it, or it is empty.
    """
    kind, where = _split(source)
    if kind == PKCS11:
        raise ConfigurationError(
            "a token (pkcs11:) holds master keys only; name a file:, env: or "
            "credential: source here"
        )
    if kind == FILE:
        octets = _private_file(base_directory / where)
    elif kind == ENV:
        octets = environment.take(where).encode("utf-8", "surrogateescape")
    else:
        octets = _credential(where, environment)
    secret = octets.removesuffix(b"\n").removesuffix(b"\r")
    if not secret or len(secret) > MAX_SECRET:
        raise ConfigurationError(
            f"the secret of {kind}:{where} is empty or too long; put the right one"
            " there"
        )
    return secret


def _split(source: str) -> tuple[str, str]:
    kind, _, where = source.partition(":")
    if kind not in (FILE, ENV, CREDENTIAL, PKCS11) or not where:
        # Not shown: someone may have put the secret itself there.
        raise ConfigurationError(
            "a source of secrets is file:PATH, env:NAME, credential:NAME or "
            "pkcs11:...; this setting is none of them"
        )
    return kind, where


def _private_file(path: Path) -> bytes:
    try:
        return read_private(path)
    except OSError as error:
        raise ConfigurationError(
            f"secret {path}: {error.strerror or error}; put it there with mode 0600"
        ) from error


def _credential(name: str, environment: Environment) -> bytes:
    if Path(name).name != name:
        raise ConfigurationError(
            f"credential {name!r}: a name without folders is meant; see systemd.exec(5)"
        )
    path = environment.folder_of_credentials() / name
    try:
        # systemd lets the service's user in by an access list, which the mode
        # shows as a right of the group to read.
        if stat.S_IMODE(path.stat().st_mode) & (stat.S_IWGRP | stat.S_IRWXO):
            raise ConfigurationError(
                f"credential {name}: others may reach {path}; have systemd set it up"
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"credential {name}: {error.strerror or error}; add "
            f"LoadCredential={name}:PATH to the unit of this service"
        ) from error


def _decoded(octets: bytes) -> bytes | None:
    """Key in base64, or None."""
    try:
        key = base64.b64decode(octets.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == KEY_LENGTH else None
