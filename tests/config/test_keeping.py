"""Marks and policies that contradict each other are refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from config.errors import ConfigurationError
from config.load import load_site


def load(folder: Path, text: str) -> None:
    path = folder / "site.toml"
    path.write_text(f'data_directory = "{folder / "data"}"\n{text}')
    load_site(path, environ={})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[disk]\nstop_free_bytes = 4294967296", "more than disk.stop_free_bytes"),
        ("[disk]\nreserve_bytes = 2147483648", "more than disk.reserve_bytes"),
        ("[disk]\nretain_free_bytes = 3221225472", "disk.resume_free_bytes"),
        ("[retention]\nkeys.days = 10", "keys would go before the protected"),
        (
            "[retention]\nkeys.days = 10\nprotected.days = 11",
            "keys would go before the protected",
        ),
        (
            "[retention]\noriginals.days = 5\nprotected.days = 10",
            "keys are kept for ever",
        ),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[retention]\noriginals.days = 30",
        "[retention]\noriginals.days = 30\nprotected.days = 10",
        "[retention]\noriginals.days = 1\nprotected.days = 10\nkeys.days = 10",
        "[disk]\nstop_free_bytes = 1073741824",
    ],
)
def test_what_makes_sense_is_taken(tmp_path: Path, text: str) -> None:
    load(tmp_path, text)
