"""When a destination takes objects: windows of local time, over midnight and DST.

A window begins on each of its days and ends at the next moment that its end is
shown by a clock on the wall. A time that a change to summer time skips is meant
as if the change came later; of one that comes twice the first begins a window and
the second ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from config.schema import DAYS

if TYPE_CHECKING:
    from config.schema import Hours, Site

LOOK_BACK: Final = 2
LOOK_AHEAD: Final = 9
"""Days around a moment that windows are looked for in: a week and both nights."""


@dataclass(frozen=True)
class Schedule:
    """Windows of a week in one time zone; none at all: always open."""

    windows: Sequence[Hours]
    zone: ZoneInfo

    def is_open(self, moment: datetime) -> bool:
        """Whether a moment (aware) is inside a window."""
        return not self.windows or any(
            start <= moment < end for start, end in self._around(moment)
        )

    def opens(self, moment: datetime) -> datetime:
        """Return when it is open next: the moment itself where it is open."""
        if self.is_open(moment):
            return moment
        return min(start for start, _ in self._around(moment) if start > moment)

    def _around(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        today = moment.astimezone(self.zone).date()
        for offset in range(-LOOK_BACK, LOOK_AHEAD):
            day = today + timedelta(days=offset)
            for window in self.windows:
                if DAYS[day.weekday()] in window.days:
                    over_midnight = window.until <= window.start
                    last = day + timedelta(days=1) if over_midnight else day
                    start = self._moment(datetime.combine(day, window.start), 0)
                    end = self._moment(datetime.combine(last, window.until), 1)
                    yield start, end

    def _moment(self, local: datetime, fold: int) -> datetime:
        # A skipped time with fold 0 counts by the offset before the change.
        shown = local.replace(tzinfo=self.zone, fold=fold)
        skipped = shown.astimezone(UTC).astimezone(self.zone).replace(
            tzinfo=None
        ) != local.replace(fold=0)
        return shown.replace(fold=0 if skipped else fold).astimezone(UTC)


ALWAYS: Final = Schedule((), ZoneInfo("UTC"))


def schedules_of(site: Site) -> Mapping[str, Schedule]:
    """Return when each destination of a checked site takes objects."""
    zone = ZoneInfo(site.timezone or "UTC")
    return {one.name: Schedule(one.hours, zone) for one in site.destinations}
