"""Look the locked packages up among known vulnerabilities, and say what was not.

pip-audit passes over what its service does not know, and ends well all the same
where the service cannot be reached at all; then this does not.

Exit code 0: every package was looked up and none is vulnerable; 1: some are;
2: some could not be looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COMMAND = ("--require-hashes", "--disable-pip", "--no-deps", "--format", "json")


def main() -> None:
    """Audit the lock that is named, with further options for pip-audit."""
    lock, *options = sys.argv[1:]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip_audit", *COMMAND),
            *("--progress-spinner", "off", "-r", lock, *options),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except ValueError:
        sys.stderr.write(done.stderr)
        print("pip-audit gave no answer: nothing was looked up")
        raise SystemExit(2) from None
    raise SystemExit(told(found, Path(lock)))


def told(found: list[dict[str, object]], lock: Path) -> int:
    """Tell what was found; the exit code."""
    skipped = [each for each in found if "skip_reason" in each]
    bad = [each for each in found if each.get("vulns")]
    for each in bad:
        vulns = each["vulns"]
        assert isinstance(vulns, list)
        print(f"{each['name']} {each['version']}:", *(v["id"] for v in vulns))
    print(
        f"{lock}: {len(found)} packages, {len(found) - len(skipped)} looked up,"
        f" {len(bad)} vulnerable"
    )
    if skipped:
        print(f"{len(skipped)} could not be looked up from here: NOT AUDITED")
    if bad:
        return 1
    return 2 if skipped or not found else 0


if __name__ == "__main__":
    main()
