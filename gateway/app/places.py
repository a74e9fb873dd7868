"""What lies where in a data directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """What lies where in a data directory."""

    root: Path

    @property
    def index(self) -> Path:
        """The SQL index."""
        return self.root / "index.sqlite"

    @property
    def jobs(self) -> Path:
        """The database of the job queue."""
        return self.root / "jobs.sqlite"

    @property
    def store(self) -> Path:
        """Received and protected objects."""
        return self.root / "store"

    @property
    def vault(self) -> Path:
        """Sealed records."""
        return self.root / "vault"

    @property
    def secrets(self) -> Path:
        """Sealed secrets; and the master key, if it is nowhere else."""
        return self.root / "secrets"

    @property
    def anchor(self) -> Path:
        """How far the tables of grants had come."""
        return self.root / "access" / "anchor.json"

    @property
    def audit(self) -> Path:
        """The audit trail."""
        return self.root / "audit" / "audit.jsonl"

    @property
    def ports(self) -> Path:
        """The ports in use, while the receiver listens."""
        return self.root / "run" / "ports.json"

    @property
    def web_port(self) -> Path:
        """The port in use, while the web server listens."""
        return self.root / "run" / "web.json"

    @property
    def full(self) -> Path:
        """There while no objects are accepted for want of room."""
        return self.root / "run" / "disk-full"

    @property
    def fence(self) -> Path:
        """The files whose locks keep work and erasure apart."""
        return self.root / "run" / "fence"

    def temporary(self, process: str) -> Path:
        """Return where a process makes temporary files; emptied at its start."""
        return self.root / "run" / "tmp" / process

    def lock(self, process: str) -> Path:
        """Return the file whose lock makes a process the only one of its kind."""
        return self.root / "run" / f"{process}.lock"
