"""Shared by every test: one torch thread, real files, temporary sites."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.phi_scan import PhiScan

if TYPE_CHECKING:
    import pytest

# Two busy threads on two shared cores make a forward pass ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Search all logs of the suite for patients and secrets."""
    config.pluginmanager.register(PhiScan(config), "phi-scan")
