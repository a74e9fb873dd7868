"""A site with sealed files, and its commands about keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from benchmarks.rotation import record_of, uid_of
from config.schema import Vault as VaultSettings
from gateway.audit.log import AuditLog
from gateway.cli.main import build_app
from gateway.sealing.census import take_census
from gateway.sealing.envelope import seal_bytes
from gateway.sealing.ring import KeyRing, open_ring
from gateway.vault.vault import Vault

SITE = 'name = "north"\ndata_directory = "data"\n'


class SealedSite:
    """A site directory with a vault of small records."""

    def __init__(self, folder: Path, records: int = 3) -> None:
        folder.mkdir(exist_ok=True)
        self.config = folder / "site.toml"
        self.config.write_text(SITE)
        self.data = folder / "data"
        self.master = self.data / "secrets" / "master.key"
        self.records = records
        self.first = self.ring().current().key_id
        for number in range(records):
            self.vault().put(record_of(number))

    def ring(self) -> KeyRing:
        return open_ring(VaultSettings(), self.data)

    def vault(self) -> Vault:
        return Vault(self.data / "vault", self.ring())

    def seal(self, relative: str, content: bytes = b"content") -> Path:
        """Seal something under the current key."""
        path = self.data / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(seal_bytes(content, self.ring()))
        return path

    def under(self) -> dict[str, int]:
        return dict(take_census(self.data).under)

    def all_open(self) -> bool:
        vault = self.vault()
        numbers = range(self.records)
        return all(vault.get(uid_of(n)) == record_of(n) for n in numbers)

    def keys(self, *arguments: str | Path) -> str:
        """Give a command about keys in this process; its output."""
        given = ["keys", *map(str, arguments), "--config", str(self.config)]
        result = CliRunner().invoke(build_app(), given)
        if result.exception is not None:
            raise result.exception
        return result.output

    def status(self) -> dict[str, Any]:
        given = ["keys", "status", "--json", "--config", str(self.config)]
        result = CliRunner().invoke(build_app(), given)
        told: dict[str, Any] = json.loads(result.output)
        assert result.exit_code == bool(told["problem"])
        return told

    def trail(self, action: str) -> list[dict[str, Any]]:
        lines = AuditLog(self.data / "audit" / "audit.jsonl").entries()
        return [line for line in lines if line["action"] == action]
