"""``python -m tests.faults``: see docs/reliability.md."""

from __future__ import annotations

from tests.faults.commands import app

app()
