"""The whole trail checked: chain, signatures, and what is kept elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.audit.chain import START, Link
from gateway.audit.checkpoints import Coverage
from gateway.audit.segments import all_segments, checked_lines
from gateway.errors import AuditBroken


@dataclass(frozen=True, kw_only=True)
class Report:
    """A trail that is whole.

    Attributes
    ----------
    end
        Its last line; keep it elsewhere, to tell later that it was not cut.
    files
        Oldest first.
    checkpoints
        How many there are; all signatures are right.
    covered
        The last line a checkpoint speaks for; who may write the file could have
        made the later ones anew.
    keys
        Public keys of the checkpoints.
    """

    end: Link
    files: tuple[Path, ...]
    checkpoints: int
    covered: int
    keys: frozenset[bytes]

    @property
    def uncovered(self) -> int:
        """How many lines, at the end, wait for a checkpoint."""
        own_line = 1 if self.checkpoints else 0
        return self.end.count - self.covered - own_line


def verify_trail(
    path: Path,
    *,
    trusted: frozenset[bytes] = frozenset(),
    at_least: Link | None = None,
) -> Report:
    """Check a trail, in memory that does not grow with it.

    Parameters
    ----------
    path
        The file written to; closed ones lie beside it.
    trusted
        Public keys that checkpoints may be signed with; empty: any.
    at_least
        A line that was there once, kept elsewhere.

    Raises
    ------
    AuditBroken
        Naming file and line of the first thing that is wrong.
    """
    coverage = Coverage()
    end = START
    for segment, line in checked_lines(path):
        coverage.add(line, segment, trusted)
        end = line.link
        if at_least and end.count == at_least.count and end != at_least:
            raise AuditBroken(
                f"Line {end.count} of {segment} is not the one that was kept: "
                "the trail was made anew",
                segment,
                end.count,
            )
    if at_least and end.count < at_least.count:
        raise AuditBroken(
            f"{path} ends with line {end.count}, line {at_least.count} was there: "
            "its end was cut off",
            path,
            end.count + 1,
        )
    return Report(
        end=end,
        files=tuple(all_segments(path)),
        checkpoints=coverage.checkpoints,
        covered=coverage.covered,
        keys=frozenset(coverage.keys),
    )
