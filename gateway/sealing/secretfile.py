"""Secrets in files that only their owner may read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

WIPE: Final = 1 << 20
"""Octets overwritten at once."""

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
"""Permission bits that must not be set on a secret."""


def load_or_create(path: Path, length: int) -> bytes:
    """Secret of a file, made on first use with mode 0600.

    Two processes that start at once get the same secret: the file appears
    whole or not at all.

    Parameters
    ----------
    path
        Where the secret lies; missing folders are made with mode 0700.
    length
        Octets of a secret made now, and required of one found.

    Raises
    ------
    ConfigurationError
        The file can be read or written by others, has another length, or
        cannot be read or made.
    """
    try:
        if not path.exists():
            create_once(path, secrets.token_bytes(length))
    except OSError as error:
        raise _unreadable(path, error) from error
    return load_existing(path, length)


def load_existing(path: Path, length: int) -> bytes:
    """Secret of a file that is there.

    Raises
    ------
    FileNotFoundError
        It is not there.
    ConfigurationError
        Others may reach it, it has another length, or it cannot be read.
    """
    try:
        secret = read_private(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(secret) != length:
        raise ConfigurationError(
            f"secret {path} has {len(secret)} octets instead of {length}: "
            "put the right file back; a new one would open no existing record"
        )
    return secret


def _unreadable(path: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"secret {path}: {error.strerror or error}; give this user a folder "
        "it may write to, and put the file back if it was there before"
    )


def read_private(path: Path) -> bytes:
    """Octets of a secret that nobody but its owner can reach.

    Raises
    ------
    ConfigurationError
        Others may read or write the file.
    """
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & OTHERS:
            raise ConfigurationError(
                f"secret {path} has mode {mode:04o}: others may reach it; "
                f"run: chmod 600 {path}"
            )
        return file.read()


def create_once(path: Path, secret: bytes) -> None:
    """Write a secret with mode 0600 unless there is one already.

    The file appears whole or not at all; missing folders get mode 0700.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_durably(draft, secret)
        # A link, not a rename: the first of two processes wins, for both.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file with mode 0600 and wait until the disk has it."""
    with durable_file(path) as file:
        file.write(data)


@contextlib.contextmanager
def durable_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file with mode 0600; the disk has it when the block is left well."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def overwrite(path: Path) -> None:
    """Write zeros over a file, as far as its disk writes in place."""
    with path.open("r+b", buffering=0) as file:
        left = path.stat().st_size
        while left > 0:
            left -= file.write(bytes(min(left, WIPE)))
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
