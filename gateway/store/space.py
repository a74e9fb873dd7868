"""Room on the disk: objects stop coming in before it is full.

What is free is looked at a few times a second at most; in between, what this
process writes is counted, so that many large objects at once cannot jump over a
mark. Below the stop mark no object is begun; one already on its way may go on down
to the reserve, which is left to index, jobs, keys and audit trail.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.errors import StoreFull
from gateway.log import get_logger
from gateway.store.durable import FILE_MODE, make_directory

if TYPE_CHECKING:
    from config.schema import Disk

LOOK_SECONDS: Final = 0.25
LOOK_BYTES: Final = 64 << 20
"""After so many octets written it is looked again at once."""

WAIT_SECONDS: Final = 1.0
REFUSED_SECONDS: Final = 5.0
"""How long nothing is begun after the system itself said that there is no room."""

LEAST_INODES: Final = 1000
FULL: Final = "The disk is nearly full: nothing more is accepted until there is room"


class Volume(NamedTuple):
    """A file system: octets free for this account, and of all."""

    free: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Free octets of a file system at which something changes."""

    reserve: int
    stop: int
    resume: int
    retain: int

    @classmethod
    def of(cls, settings: Disk, total: int) -> Marks:
        """Return the marks of a file system; a small one has smaller ones."""
        return cls(
            reserve=min(settings.reserve_bytes, total // 40),
            stop=min(settings.stop_free_bytes, total // 10),
            resume=min(settings.resume_free_bytes, total * 3 // 20),
            retain=min(settings.retain_free_bytes, total // 4),
        )


@dataclass(frozen=True, kw_only=True)
class Room:
    """How things stand.

    Attributes
    ----------
    accepting
        Whether new objects are begun.
    short
        Whether retention should make room.
    tightest
        The place with the least above its stop mark, and its figures.
    """

    accepting: bool
    short: bool
    tightest: Path
    volume: Volume
    marks: Marks


Told = Callable[[bool, Room], None]
"""Called once for a site when it stops (False) and when it accepts again (True)."""


def volume_of(path: Path) -> Volume:
    """Look at the file system of a directory; one out of inodes has nothing free."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    if found.f_files and found.f_favail < LEAST_INODES:
        free = 0
    return Volume(free, found.f_blocks * found.f_frsize)


class Space:
    """Says whether there is room; shared by the threads of a process.

    Parameters
    ----------
    settings
        The marks.
    places
        Directories that are written to, on whatever file systems.
    flag
        A file that is there while the site has stopped: all processes of a data
        directory agree by it, and only one tells of a change.
    told
        Told of changes.
    look, clock
        Give what is free, and seconds that only grow.
    """

    def __init__(
        self,
        settings: Disk,
        places: Sequence[Path],
        flag: Path,
        *,
        told: Told = lambda _accepting, _room: None,
        look: Callable[[Path], Volume] = volume_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._places = tuple(places)
        self._flag = flag
        self._told = told
        self._look = look
        self._clock = clock
        self._lock = threading.Lock()
        self._room: Room | None = None
        self._looked = 0.0
        self._taken = 0
        self._refused_until = float("-inf")

    def room(self) -> Room:
        """Say how things stand, not older than a moment."""
        with self._lock:
            return self._fresh()

    def admit(self) -> None:
        """Ask to begin an object.

        Raises
        ------
        StoreFull
            There is not enough room for another one.
        """
        with self._lock:
            if not self._fresh().accepting or self._is_refused():
                raise StoreFull(FULL)

    def take(self, octets: int) -> None:
        """Say that so much more is being written of an object on its way.

        Raises
        ------
        StoreFull
            It would take of the reserve.
        """
        with self._lock:
            room = self._fresh()
            self._taken += octets  # which no look can have seen yet
            if room.volume.free - self._taken < room.marks.reserve:
                raise StoreFull(FULL)

    def refuse(self) -> None:
        """Begin nothing for a while: the system said that there is no room."""
        with self._lock:
            self._refused_until = self._clock() + REFUSED_SECONDS
            self._room = None

    def wait(self) -> None:
        """Return when there is room for new objects."""
        waiting = False
        while True:
            try:
                self.admit()
            except StoreFull:
                if not waiting:
                    get_logger("disk").warning("waiting-for-room")
                waiting = True
                time.sleep(WAIT_SECONDS)
            else:
                return

    def _is_refused(self) -> bool:
        return self._clock() < self._refused_until

    def _fresh(self) -> Room:
        now = self._clock()
        if (
            self._room is None
            or now - self._looked >= LOOK_SECONDS
            or self._taken >= LOOK_BYTES
        ):
            self._room = self._looked_at()
            self._looked, self._taken = now, 0
        return self._room

    def _looked_at(self) -> Room:
        seen = [(place, self._look(place)) for place in self._places]
        rated = [
            (volume, Marks.of(self._settings, volume.total), place)
            for place, volume in seen
        ]
        volume, marks, place = min(rated, key=lambda one: one[0].free - one[1].stop)
        stopped = self._flag.exists()
        if any(v.free < m.stop for v, m, _ in rated):
            accepting = False
        elif stopped:
            accepting = all(v.free >= m.resume for v, m, _ in rated)
        else:
            accepting = True
        room = Room(
            accepting=accepting,
            short=any(v.free < m.retain for v, m, _ in rated),
            tightest=place,
            volume=volume,
            marks=marks,
        )
        if accepting == stopped and self._turned(accepting):
            self._tell(room)
        return room

    def _turned(self, accepting: bool) -> bool:
        """Change the flag; True for the one process that did."""
        try:
            if accepting:
                self._flag.unlink()
            else:
                make_directory(self._flag.parent)
                kind = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(self._flag, kind, FILE_MODE))
        except FileExistsError:
            return False
        except FileNotFoundError:
            return False
        except OSError as error:
            get_logger("disk").error("flag-not-changed", error=type(error).__name__)
            return False
        return True

    def _tell(self, room: Room) -> None:
        say = get_logger("disk")
        fields = {
            "free_bytes": room.volume.free,
            "stop_below": room.marks.stop,
            "resume_from": room.marks.resume,
            "place": room.tightest.name,
        }
        if room.accepting:
            say.warning("accepting-again", **fields)
        else:
            say.error("disk-nearly-full", **fields)
        self._told(room.accepting, room)
