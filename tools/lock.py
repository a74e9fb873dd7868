"""Write ``requirements.lock`` from what pip resolved: names, versions, hashes.

    pip install --dry-run --ignore-installed --report report.json ".[pkcs11]"
    python -m tools.lock report.json requirements.lock

What is written says nothing of where the files came from: a hash is the same
everywhere.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HEAD = """\
# Every package of the product, for CPython 3.11 on Linux x86-64 with torch's CPU
# build, with the SHA-256 of its file. Made by `make lock`; see docs/supply-chain.md.
#   pip install --no-deps --require-hashes -r requirements.lock
"""
OWN = "miad-gateway"


def lines(report: dict[str, object]) -> list[str]:
    """Lines of the lock, by name.

    Raises
    ------
    SystemExit
        A package has no hash.
    """
    found = {}
    installs = report["install"]
    assert isinstance(installs, list)
    for each in installs:
        name = normalised(each["metadata"]["name"])
        if name == OWN:
            continue
        hashes = each["download_info"].get("archive_info", {}).get("hashes", {})
        if "sha256" not in hashes:
            raise SystemExit(f"{name} has no hash: pip took it from no file")
        version = each["metadata"]["version"]
        found[name] = f"{name}=={version} \\\n    --hash=sha256:{hashes['sha256']}"
    return [found[name] for name in sorted(found)]


def normalised(name: str) -> str:
    """Name of a package as the index knows it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Read a report, write a lock."""
    report, lock = map(Path, sys.argv[1:])
    made = lines(json.loads(report.read_text()))
    lock.write_text(HEAD + "\n".join(made) + "\n")


if __name__ == "__main__":
    main()
