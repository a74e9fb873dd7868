"""The lock holds every package of the product, and fits what is declared."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools.audit import told
from tools.lock import lines, normalised

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
ENTRY = re.compile(r"^(\S+)==(\S+) \\\n    --hash=sha256:([0-9a-f]{64})$", re.M)
EXTRAS = ("", "pkcs11")


def locked() -> dict[str, Version]:
    found = {
        name: Version(version) for name, version, _ in ENTRY.findall(LOCK.read_text())
    }
    assert len(found) > 50
    return found


def declared() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]["pkcs11"]
    return [Requirement(one) for one in (*project["dependencies"], *optional)]


def needed() -> set[str]:
    """Names of every installed package that the product needs, however deep.

    What one of another version than the lock's needs is not looked at: tools for
    tests hold some back.
    """
    found: set[str] = set()
    versions = locked()
    waiting = [(one.name, tuple(one.extras)) for one in declared()]
    while waiting:
        name, extras = waiting.pop()
        key = normalised(name)
        if key in found:
            continue
        found.add(key)
        installed = distribution(name)
        if key in versions and Version(installed.version) != versions[key]:
            continue
        for text in installed.requires or []:
            each = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *extras)]
            if each.marker is None or any(map(each.marker.evaluate, environments)):
                waiting.append((each.name, tuple(each.extras)))
    return found


def test_every_line_of_the_lock_has_a_hash_and_no_place() -> None:
    text = LOCK.read_text()
    rest = ENTRY.sub("", text)
    assert not [ln for ln in rest.splitlines() if ln and not ln.startswith("#")]
    assert "://" not in text
    assert "--index" not in text


def test_the_lock_fits_what_is_declared() -> None:
    versions = locked()
    for one in declared():
        version = versions[normalised(one.name)]
        assert one.specifier.contains(version, prereleases=True), one


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or sys.platform != "linux",
    reason="the lock is for CPython 3.11 on Linux",
)
def test_every_installed_package_of_the_product_is_in_the_lock() -> None:
    assert needed() - set(locked()) == set()


def test_the_lock_holds_nothing_but_the_product() -> None:
    """A package of tests and tools only has no place in it."""
    assert not {"pytest", "ruff", "mypy", "pip-audit", "hypothesis"} & set(locked())


def report(name: str, **download: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "version": "1.0"}, "download_info": download}


def test_a_lock_is_made_of_a_report_of_pip() -> None:
    good = report("Some_Package", archive_info={"hashes": {"sha256": "ab" * 32}})
    own = report("miad-gateway", dir_info={})
    assert lines({"install": [good, own]}) == [
        "some-package==1.0 \\\n    --hash=sha256:" + "ab" * 32
    ]
    with pytest.raises(SystemExit, match="other has no hash"):
        lines({"install": [report("other", dir_info={})]})


@pytest.mark.parametrize(
    ("found", "code", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 looked up, 0 vulnerable"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}], 1, "a 1: X-1"),
        ([{"name": "a", "skip_reason": "not found"}], 2, "NOT AUDITED"),
        ([], 2, "0 packages"),
    ],
)
def test_an_audit_that_looked_nothing_up_is_none(
    found: list[dict[str, object]],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert told(found, LOCK) == code
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_the_bill_of_materials_lists_the_lock(tmp_path: Path) -> None:
    """Made by the tool, which checks it against the schema of CycloneDX."""
    made = tmp_path / "sbom.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "cyclonedx_py", "requirements", str(LOCK)),
            *("--pyproject", str(ROOT / "pyproject.toml"), "--validate"),
            *("--of", "JSON", "--output-reproducible", "-o", str(made)),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    bill = json.loads(made.read_text())
    assert bill["metadata"]["component"]["name"] == "miad-gateway"
    listed = {normalised(c["name"]): c["version"] for c in bill["components"]}
    assert listed == {name: str(version) for name, version in locked().items()}
