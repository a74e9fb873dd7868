"""Shared by the tests of the gateway."""

from __future__ import annotations

import pytest

from tests.gateway.databases import place
from tests.gateway.pki_cases import Pki, pki_of
from tests.gateway.postgres import postgres_cluster, postgres_url

__all__ = ["pki", "place", "postgres_cluster", "postgres_url"]


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Shared by a session: tests that change files make their own."""
    return pki_of(tmp_path_factory.mktemp("pki"))
