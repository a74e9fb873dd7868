"""``corpus.md``: the result of a run as tables a person can read."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.corpus.expect import HELD, PROTECTED, REFUSED, UNSENDABLE
from benchmarks.corpus.rows import Row
from benchmarks.corpus.run import Result
from benchmarks.corpus.viewer import Comparison, viewer_section

EXAMPLES = 3
UIDS = re.compile(r"\d+(\.\d+){3,}")
NUMBERS = re.compile(r"\d+")

INTRODUCTION = """\
# Corpus: every DICOM file of the installed packages, through the gateway and back

Made by `make corpus`. Every object that `pydicom`, `pydicom-data`, `deid-data`,
`pynetdicom` and `nibabel` ship, octets untouched, is sent by C-STORE to
`miad-gateway serve`; a storage node outside receives the protected objects; an
authorised node asks for all originals by C-MOVE and the data sets are compared
octet by octet. The same SOP Instance UID comes with other content in several
files: those go to gateways of their own. What ought to become of a file is what
pydicom alone reads of it (`benchmarks/corpus/expect.py`). `dciodvfy`, DCMTK and
GDCM read every protected object as it arrived.
"""


def write_page(
    result: Result, compared: Sequence[Comparison] | None, path: Path
) -> None:
    """Write the page.

    Parameters
    ----------
    result
        Of a corpus run.
    compared
        What the viewer comparison found; None where it was not made.
    path
        The Markdown file.
    """
    sections = [
        INTRODUCTION,
        _totals(result),
        _broken(result.broken),
        _outcomes(result.rows),
        _kinds(result.rows),
        _reasons(result.rows),
        viewer_section(compared) if compared is not None else "",
        _files(result.rows),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(filter(None, sections)), "utf-8")


def table(headings: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Lay out a Markdown table."""
    rows = [
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
        *("| " + " | ".join(map(_cell, line)) + " |" for line in lines),
    ]
    return "\n".join(rows) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def totals_of(rows: Sequence[Row]) -> list[tuple[str, str, bool]]:
    """Hold the promises against all files: words, figures, and whether they hold."""
    protected = [row for row in rows if row.outcome == PROTECTED]
    objects = sum(row.objects for row in protected)
    recovered = sum(row.recovered is True for row in protected)
    stored = [row for row in rows if row.recovered is not None]
    back = sum(row.recovered is True for row in stored)
    right = sum(row.right for row in rows)
    arrived = sum(len(row.protected) for row in protected)
    faults = {
        name: sum(len(getattr(row, name)) for row in protected)
        for name in ("dciodvfy", "dcmtk", "gdcm")
    }
    return [
        _total("as pydicom alone makes expect", right, len(rows)),
        _total("protected objects arrived outside", arrived, objects),
        _total("protected files recovered octet for octet", recovered, len(protected)),
        _total("received files recovered, held ones too", back, len(stored)),
        ("`dciodvfy` errors", str(faults["dciodvfy"]), not faults["dciodvfy"]),
        ("complaints of DCMTK", str(faults["dcmtk"]), not faults["dcmtk"]),
        ("complaints of GDCM", str(faults["gdcm"]), not faults["gdcm"]),
    ]


def _total(what: str, number: int, of: int) -> tuple[str, str, bool]:
    return what, f"{number} of {of}", number == of


def _totals(result: Result) -> str:
    rows, facts = result.rows, result.facts
    outcomes = Counter(row.outcome for row in rows)
    counted = ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common())
    frames = sum(row.frames for row in rows if row.outcome == PROTECTED)
    search = (
        "16 marks tried and one step of δ each (`--quick`)"
        if facts["quick"]
        else "the default search and δ"
    )
    if facts.get("stand_in"):
        search = "one random mark and δ each, without the engine (`--stand-in`)"
    lines = [(what, figure, _yes(holds)) for what, figure, holds in totals_of(rows)]
    engine = sum(row.seconds for row in rows)
    return (
        "## Totals\n\n"
        f"{facts['files']} objects ({facts['duplicates']} further files hold the same "
        f"again): {counted}. {frames:,} frames protected with {search}. "
        f"{facts['machine']}, {facts['jobs']} gateway(s) at a time, "
        f"{facts['seconds'] / 60:.0f} min, {engine / 60:.0f} min of them in the "
        "engine.\n\n" + table(("promise", "found", "holds"), lines)
    )


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _broken(broken: Sequence[str]) -> str:
    if not broken:
        return "Every promise held for every file.\n"
    return "### Not as promised\n\n" + "".join(f"- {what}\n" for what in broken)


def _kinds(rows: Sequence[Row]) -> str:
    kinds: defaultdict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.rows:
            kinds[_kind(row)].append(row)
    lines = [
        (*kind, *_counts(of_kind), _classes(of_kind))
        for kind, of_kind in sorted(kinds.items())
    ]
    headings = (
        "modality",
        "transfer syntax",
        "bits",
        "photometric",
        "frames",
        "protected",
        "held",
        "refused",
        "recovered",
        "protected objects",
    )
    return "## Images by kind\n\n" + table(headings, lines)


def _kind(row: Row) -> tuple[str, ...]:
    sign = " signed" if row.signed else ""
    return (
        row.modality or "–",
        row.transfer_syntax,
        f"{row.bits_stored}/{row.bits_allocated}{sign}",
        row.photometric,
        "several" if row.frames > 1 else "one",
    )


def _counts(rows: Sequence[Row]) -> tuple[int, ...]:
    outcomes = Counter(row.outcome for row in rows)
    recovered = sum(row.recovered is True for row in rows if row.outcome == PROTECTED)
    return outcomes[PROTECTED], outcomes[HELD], outcomes[REFUSED], recovered


def _classes(rows: Sequence[Row]) -> str:
    counted: Counter[str] = Counter()
    for row in rows:
        if row.outcome == PROTECTED:
            counted[row.output_class] += row.objects
    return "; ".join(f"{n} {name}" for name, n in counted.most_common())


def _reasons(rows: Sequence[Row]) -> str:
    kinds: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.outcome != PROTECTED:
            kinds[row.outcome, row.reason, row.because].append(row)
    lines = [
        (*kind, len(found), _yes(all(row.right for row in found)), _examples(found))
        for kind, found in sorted(kinds.items())
    ]
    headings = ("outcome", "reason", "what pydicom finds", "files", "right", "examples")
    return (
        "## Not protected, and why\n\nHeld: stored and acknowledged, not sent. "
        f"Refused: by C-STORE. {UNSENDABLE.capitalize()}: no C-STORE request can "
        "name it.\n\n" + table(headings, lines)
    )


def outcomes_of(rows: Sequence[Row]) -> list[tuple[str, str, str, int, bool]]:
    """Count files by outcome, reason and what the gateway said, numbers left out."""
    counted: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        said = NUMBERS.sub("N", UIDS.sub("UID", row.message))
        counted[row.outcome, row.reason, said].append(row)
    return [
        (*kind, len(found), all(row.settled for row in found))
        for kind, found in sorted(counted.items())
    ]


def _outcomes(rows: Sequence[Row]) -> str:
    lines = [(*line, _yes(names)) for *line, names in outcomes_of(rows)]
    headings = ("outcome", "reason", "what the gateway said", "files", "named")
    return (
        "## What became of every file\n\nProtected, passed by rule, held with a "
        "reason that names the fault, or refused at once with a status and, in the "
        "audit trail, why.\n\n" + table(headings, lines)
    )


def _examples(rows: Sequence[Row]) -> str:
    shown = [f"`{row.file.split('/')[-1]}`" for row in rows[:EXAMPLES]]
    return ", ".join(shown) + (" …" if len(rows) > EXAMPLES else "")


def _files(rows: Sequence[Row]) -> str:
    headings = (
        "file",
        "modality",
        "pixels",
        "bits",
        "photometric",
        "syntax",
        "objects",
        "custody",
        "key, % of raw",
        "α",
        "misled",
        "s",
        "recovered",
    )
    lines = [_line(row) for row in rows if row.outcome == PROTECTED]
    return (
        "## Every protected file\n\nKey: octets of the sealed record before sealing, "
        "in % of the uncompressed pixels. Misled: frames whose consensus label "
        "changed. Seconds are the engine's.\n\n" + table(headings, lines)
    )


def _line(row: Row) -> tuple[object, ...]:
    pixels = f"{row.columns}x{row.rows}" + (
        f" x {row.frames}" if row.frames > 1 else ""
    )
    share = 100 * row.record_octets / row.raw_octets if row.raw_octets else 0.0
    return (
        f"`{row.file}`",
        row.modality or "–",
        pixels,
        f"{row.bits_stored}/{row.bits_allocated}{' signed' if row.signed else ''}",
        row.photometric,
        row.transfer_syntax,
        row.objects,
        row.custody,
        f"{share:.1f}",
        f"{row.alpha / 255:.2f}",
        f"{row.misled} of {row.frames_reported}",
        f"{row.seconds:.1f}",
        _yes(row.recovered is True),
    )


def summary_lines(rows: Sequence[Row]) -> Mapping[str, str]:
    """Give the totals for the terminal: words and figures."""
    return {
        what: f"{figure} ({'holds' if holds else 'BROKEN'})"
        for what, figure, holds in totals_of(rows)
    }
