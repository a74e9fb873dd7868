"""The scan of logs finds what it must, proved by a suite with planted leaks."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.phi_scan import corpus_needles

ROOT = Path(__file__).parent.parent
INI = """[pytest]
markers = shows_phi
"""
CONFTEST = """
from tests.phi_scan import PhiScan

def pytest_configure(config):
    config.pluginmanager.register(PhiScan(config), "phi-scan")
"""
KEY = bytes(range(100, 132))
BASE64 = base64.b64encode(KEY).decode()
LEAKS = {
    "stdout": ("print('name is Citizen^Jan')", "patient name in Captured stdout call"),
    "log": (
        "import logging; logging.getLogger().warning('born %s', '19790408')",
        "birth date in Captured log call",
    ),
    "file": (
        "(tmp_path / 'gateway.log').write_text('id=98890234 x')",
        "patient ID in ",
    ),
    "audit": (
        "(tmp_path / 'audit-1.jsonl').write_text('\"Lestrade^G\"')",
        "patient name in ",
    ),
    "key in hex": (
        f"(tmp_path / 'master.key').write_bytes({KEY!r}); print({KEY.hex()!r})",
        "secret in Captured stdout",
    ),
    "key in base64": (
        f"(tmp_path / 'site.key').write_bytes({KEY!r}); print({BASE64!r})",
        "secret in ",
    ),
    "registered": (
        "import tests.phi_scan as p; p.register('Made^Up', 'name'); print('Made^Up')",
        "name in Captured stdout",
    ),
    "private key": (
        "print('-----BEGIN ' + 'EC PRIVATE KEY-----')",
        "private key in Captured stdout",
    ),
}


def suite(directory: Path, tests: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run tests in a session of its own, with the scan."""
    (directory / "pytest.ini").write_text(INI)
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_it.py").write_text("import pytest\n" + tests)
    options = ["-q", "--basetemp", str(directory / "temp"), *more]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.shows_phi("it plants leaks")
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_planted_leaks_fail_a_session_and_are_told_without_their_values(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    bodies = [
        f"def test_{number}(tmp_path):\n    {body}\n"
        for number, (body, _) in enumerate(LEAKS.values())
    ]
    done = suite(tmp_path, "\n".join(bodies), *workers)
    assert f"{len(LEAKS)} passed" in done.stdout
    assert done.returncode == 1, done.stdout
    lines = done.stdout.splitlines()
    for number, (_, told) in enumerate(LEAKS.values()):
        wanted = f" of test_it.py::test_{number}"
        assert any(told in ln and ln.endswith(wanted) for ln in lines), (told, lines)
    for value in ("Citizen", "19790408", "98890234", "Lestrade", KEY.hex(), "Made^Up"):
        assert value not in done.stdout


@pytest.mark.slow
@pytest.mark.shows_phi("it plants leaks")
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_marked_tests_and_parts_of_longer_words_are_passed_over(
    tmp_path: Path, workers: tuple[str, ...]
) -> None:
    done = suite(
        tmp_path,
        """
@pytest.mark.shows_phi("why")
def test_marked(tmp_path):
    print("Citizen^Jan")
    (tmp_path / "x.log").write_text("Citizen^Jan")


def test_parts():
    print("1.2.19790408.3 and a98890234b")
""",
        *workers,
    )
    assert "2 passed" in done.stdout
    assert done.returncode == 0, done.stdout


def test_the_corpus_gives_names_numbers_and_dates() -> None:
    found = corpus_needles()
    assert {"patient name", "patient ID", "birth date"} == set(found.values())
    assert len(found) > 30
