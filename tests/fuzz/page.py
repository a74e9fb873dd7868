"""``docs/results/fuzz.md``: what was done, what was found, what was mended."""

from __future__ import annotations

import json
import os
import platform
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.campaign import KEPT, Share

FINDINGS = Path(__file__).parent / "findings.toml"
COUNTED = frozenset({"PDU", "DIMSE", "data set", "codestream"})
"""Kinds that the promise is about; the others are beside it."""

HEAD = """\
# Fuzzing: changed PDUs, messages, data sets and associations

Made by `make fuzz` (`python -m tests.fuzz run`, `wire`, `page`). Every function that
takes octets from outside is entered with valid inputs that were changed: by plain
changes of octets, and by changes that know PDUs, command sets and elements and put
the lengths around a change right half of the time. An entry may return or raise the
errors it documents; everything else, more than 10 s of processor time, and more than
256 MiB of memory for one input are findings. A process that ends (a codec in C) is
one as well. Guided by coverage where atheris is installed (`pip install -e .[fuzz]`),
else at random from seeds. The inputs that found something are in `tests/fuzz/corpus/`
and are entered again by every run of the tests.
"""


def known_findings() -> list[dict[str, Any]]:
    """Return what was found so far, and how it was mended."""
    found: list[dict[str, Any]] = tomllib.loads(FINDINGS.read_text("utf-8"))["finding"]
    return found


def write_page(
    campaigns: Sequence[tuple[str, Sequence[Share]]], wire: Path | None, page: Path
) -> None:
    """Write the page of campaigns, each with its heading."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    python = f"Python {platform.python_version()}"
    parts = [HEAD, f"{machine}, {python}; other work went on beside it.\n"]
    every = [share for _, each in campaigns for share in each]
    total = sum(share.executions for share in every if share.kind in COUNTED)
    beside = sum(share.executions for share in every) - total
    left = sum(share.findings for share in every)
    parts.append(
        f"**{total:,} changed PDUs, DIMSE messages and data sets**, and {beside:,} "
        "sealed files, requests of the web and settings beside them; "
        f"{left} findings that are not mended.\n"
    )
    for heading, shares in campaigns:
        parts += [f"## {heading}\n", _table(shares)]
    if wire is not None and wire.exists():
        parts.append(_wire(json.loads(wire.read_text("utf-8"))))
    parts.append(_found())
    page.write_text("\n".join(parts), "utf-8")


def _table(shares: Sequence[Share]) -> str:
    titles = "entry inputs executions 1/s coverage new exceptions hangs crashes memory"
    lines = ["| " + titles.replace(" ", " | ") + " | growth, MiB |"]
    lines.append("|---|---|" + "---:|" * 9)
    for share in shares:
        rate = share.executions / max(share.seconds, 0.1)
        lines.append(
            f"| {share.target} | {share.kind} | {share.executions:,} | {rate:.0f} | "
            f"{share.coverage or '–'} | {share.new_coverage or '–'} | "
            f"{share.exceptions} | {share.hangs} | {share.crashes} | {share.memory} | "
            f"{share.growth_bytes / 2**20:.1f} |"
        )
    total = sum(share.executions for share in shares)
    lines.append(f"| all | | {total:,} |" + " |" * 8)
    return "\n".join(lines) + (
        "\n\nCoverage: edges of `gateway` and `config`. Growth: resident memory "
        "at the end over that after a tenth of the run.\n"
    )


def _wire(found: dict[str, Any]) -> str:
    memory = found["memory_bytes"]
    first = memory[len(memory) // 10]
    growth = memory[-1] / first - 1
    faults = "".join(f"- {fault}\n" for fault in found["faults"]) or "No fault.\n"
    return (
        f"{WIRE}\n{found['associations']:,} associations with {found['pdus']:,} PDUs "
        f"in {found['seconds']:.0f} s; {found['accepted']:,} were accepted all "
        "the same, "
        f"{found['stored']:,} objects stored. Memory {first >> 20} MiB after a tenth, "
        f"{memory[-1] >> 20} MiB at the end ({growth:+.1%}); threads "
        f"{found['threads'][0]} to {found['threads'][1]}, open files "
        f"{found['files'][0]} to {found['files'][1]}.\n\n{faults}"
    )


WIRE = """\
## Recorded associations of DCMTK, changed

storescu in seven transfer syntaxes, echoscu, findscu, movescu, getscu, recorded
through a proxy and played with changes against a running `miad-gateway receiver`. It
is looked at after every 500: it answers C-ECHO, its log has no traceback; files and
rows agree at the end.
"""


def _found() -> str:
    lines = ["## What was found, and mended\n", "| entry | what | mended | kept |"]
    lines.append("|---|---|---|---|")
    for one in known_findings():
        kept = f"`{one['file']}.bin`" if one["file"] else "–"
        lines.append(f"| {one['target']} | {one['what']} | {one['mended']} | {kept} |")
    lines.append("\nNo codec ended a process. The RLE decoder panics (Rust) on damaged")
    lines.append("segments, which is caught: the object is held as `undecodable`.\n")
    return "\n".join(lines)


def unlisted() -> list[str]:
    """Name inputs that are kept and not listed, and the other way round."""
    listed = {(one["target"], one["file"]) for one in known_findings() if one["file"]}
    kept = {
        (path.parent.name, path.stem)
        for path in KEPT.glob("*/*.bin")
        if path.parent.name != "wire"
    }
    return sorted("/".join(each) for each in listed ^ kept)
