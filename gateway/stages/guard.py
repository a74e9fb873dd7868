"""What stands between a step and its effects: the lease, and a destination's hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.dicom.sender import SendResult, Verdict

if TYPE_CHECKING:
    from config.schema import Destination
    from gateway.dicom.rawstore import OutboundObject
    from gateway.stages.export import Send

CLOSED: Final = "the destination's hours are over; the rest is sent in the next ones"

Check = Callable[[], None]


def unguarded() -> None:
    """Let every effect happen: there is no other worker."""


@dataclass(frozen=True, kw_only=True)
class GuardedSend:
    """Sends object by object, and asks before each.

    Attributes
    ----------
    send
        What sends.
    check
        Returns only while this process may act.
    is_open
        Whether the destination still takes objects; what is left then is
        pending, as if it had answered that it cannot take them now.
    """

    send: Send
    check: Check
    is_open: Callable[[], bool]

    def __call__(
        self,
        destination: Destination,
        objects: Sequence[OutboundObject],
        calling_ae: str,
    ) -> Iterator[SendResult]:
        """Send in order, one result for each object."""
        results = self.send(destination, objects, calling_ae)
        try:
            for number, _ in enumerate(objects):
                if not self.is_open():
                    yield from map(_closed, objects[number:])
                    return
                self.check()
                yield next(results)
        finally:
            close = getattr(results, "close", None)
            if close is not None:
                close()  # the association it holds


def _closed(outbound: OutboundObject) -> SendResult:
    return SendResult(
        sop_instance_uid=outbound.sop_instance_uid,
        status=None,
        error=CLOSED,
        verdict=Verdict.TRANSIENT,
    )
