"""Marks the frames of a series in batches, each batch taught by the one before."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from engine.errors import InvalidFrame, NoFeasiblePlacement
from engine.protection.values import Given
from gateway.dicom.pixels import working_bytes
from gateway.errors import Unprotectable
from gateway.stages.draft import Draft, MarkedFrame, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from engine.protection.values import Neighbour
    from engine.types import Frame

    Progress = Callable[[str, int, int], None]
    """Called with ``frame``, its number and how many its object has, before each;
    in between with the engine's stage, the steps done and their bound."""


class SeriesFrame(MarkedFrame, Protocol):
    """A marked frame that can teach the next."""

    @property
    def neighbour(self) -> Neighbour | None:
        """What the next frame of the series may start from."""


class FrameProtector(Protocol):
    """Protects frames; the engine's ``Protector`` is one."""

    def protect_many(
        self,
        frames: Sequence[Frame],
        *,
        seeds: Sequence[bytes],
        given: Sequence[Given],
        progress: Progress,
    ) -> Sequence[SeriesFrame | NoFeasiblePlacement]:
        """Protect frames together; ``seeds`` tell each from all others."""


@dataclass
class Memory:
    """What the last marked frame of a series teaches the next batch.

    ``series`` is the series it is of: another one starts anew.
    """

    series: str = ""
    neighbour: Neighbour | None = None

    def of(self, series: str) -> Neighbour | None:
        """Return what is known for the next frames of a series."""
        return self.neighbour if series == self.series else None


@dataclass(frozen=True, kw_only=True)
class _Slot:
    draft: Draft
    index: int
    frame: Frame


@dataclass(frozen=True, kw_only=True)
class Marking:
    """Marks drafts.

    Attributes
    ----------
    protector
        Marks frames.
    batch_frames
        How many at a time, at most.
    batch_bytes
        Octets that several frames under work together may take; one may always be.
    series
        What tells this series from others.
    memory
        What is known from earlier calls; changed as frames are marked.
    progress
        Told of every step.
    """

    protector: FrameProtector
    batch_frames: int
    series: str
    memory: Memory
    progress: Progress
    batch_bytes: int = sys.maxsize

    def mark(self, drafts: Iterable[Draft | Refused]) -> Iterator[Draft | Refused]:
        """Mark every frame of drafts; each is given on when it is finished.

        In their order. A draft is asked for when its turn comes, and is finished
        with its ``error`` where one of its frames cannot be protected.
        """
        waiting: deque[Draft | Refused] = deque()
        batch: list[_Slot] = []
        for draft in drafts:
            waiting.append(draft)
            for slot in _slots(draft) if isinstance(draft, Draft) else ():
                batch.append(slot)
                if self._is_full(batch):
                    self._mark(batch)
                    batch = []
            while waiting and waiting[0].finished:
                yield waiting.popleft()
        self._mark(batch)
        yield from waiting

    def _is_full(self, batch: Sequence[_Slot]) -> bool:
        """Whether a batch takes no further frame, as large as its last one.

        A series' first frame is marked alone, to teach the others.
        """
        if self.memory.of(self.series) is None or len(batch) == self.batch_frames:
            return True
        taken = [working_bytes(slot.frame.stored.size) for slot in batch]
        return sum(taken) + taken[-1] > self.batch_bytes

    def _mark(self, batch: Sequence[_Slot]) -> None:
        open_ = [slot for slot in batch if slot.draft.error is None]
        if not open_:
            return
        last = open_[-1]
        self.progress("frame", last.index + 1, last.draft.source.count)
        known = self.memory.of(self.series)
        marked = self.protector.protect_many(
            [slot.frame for slot in open_],
            seeds=[slot.draft.seed(slot.index) for slot in open_],
            given=[Given(neighbour=known)] * len(open_),
            progress=self.progress,
        )
        for slot, result in zip(open_, marked, strict=True):
            self._take(slot, result)

    def _take(self, slot: _Slot, result: SeriesFrame | NoFeasiblePlacement) -> None:
        draft = slot.draft
        if draft.error is not None:
            return
        if isinstance(result, NoFeasiblePlacement):
            message = f"frame {slot.index + 1}: {result}"
            draft.error = Unprotectable("no-placement", message)
            return
        draft.add(slot.frame, result)
        self.memory.series = self.series
        self.memory.neighbour = result.neighbour


def _slots(draft: Draft) -> Iterator[_Slot]:
    """Yield the frames of a draft, decoded one by one, as long as it is whole."""
    for index in range(draft.source.count):
        if draft.error is not None:
            return
        try:
            frame = draft.source.frame(index)
        except Unprotectable as error:
            draft.error = error
        except InvalidFrame as error:
            message = f"frame {index + 1}: {error}"
            draft.error = Unprotectable("unsupported-pixels", message)
        else:
            yield _Slot(draft=draft, index=index, frame=frame)
