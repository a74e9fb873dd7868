"""The passphrase of the private key, from where the settings say it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway.errors import ConfigurationError
from gateway.tls.material import OTHERS, ReadSecret


def secret_reader(base_directory: Path) -> ReadSecret:
    """Return what reads a ``KeySource``; relative files are in the directory."""

    def read(source: str) -> bytes:
        kind, _, where = source.partition(":")
        if kind == "env":
            return os.environ.get(where, "").encode()
        if kind == "credential":
            return _private(Path(os.environ["CREDENTIALS_DIRECTORY"]) / where)
        return _private(base_directory / where)

    return read


def _private(path: Path) -> bytes:
    try:
        if stat.S_IMODE(path.stat().st_mode) & OTHERS:
            raise ConfigurationError(f"{path}: others may reach it; chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
