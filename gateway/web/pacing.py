"""HTTP/1.1 with an end to what never ends: slow heads, bodies, and readers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import h11
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

from config.schema import Limits

LEAST_BYTES: Final = 16_384
"""Of a body that is awaited, in every ``pdu_seconds``."""


class PacedHttp(H11Protocol):
    """uvicorn's HTTP/1.1, with an end to what never ends.

    Parameters
    ----------
    limits
        ``request_seconds`` for the head of a request; ``pdu_seconds`` in which a
        body, in either direction, must get on.
    on_refusal
        Told why a connection is ended.
    on_lost
        Told that it has ended.
    options
        As uvicorn gives them.
    """

    def __init__(
        self,
        limits: Limits,
        on_refusal: Callable[[str], None],
        on_lost: Callable[[], None],
        **options: Any,  # noqa: ANN401 - uvicorn's own
    ) -> None:
        super().__init__(**options)
        self._limits = limits
        self._on_refusal = on_refusal
        self._on_lost = on_lost
        self._head_due: asyncio.TimerHandle | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._received = 0
        self._resumed = 0
        self._seen: tuple[bool, int, bool, int] = (False, 0, False, 0)

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_head()
        self._look_later()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        for timer in (self._head_due, self._next_look):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._on_lost()

    @override
    def data_received(self, data: bytes) -> None:
        """Take what comes; an unfinished head has only so long."""
        self._received += len(data)
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._await_head()
        elif self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    @override
    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and have it recorded."""
        self._on_refusal("request-invalid")
        super().send_400_response(msg)

    @override
    def resume_writing(self) -> None:
        """Count that the peer has taken something."""
        self._resumed += 1
        super().resume_writing()

    def _await_head(self) -> None:
        if self._head_due is None and not self.transport.is_closing():
            self._head_due = self.loop.call_later(
                self._limits.request_seconds, self._end, "request-too-slow"
            )

    def _look_later(self) -> None:
        self._next_look = self.loop.call_later(self._limits.pdu_seconds, self._look)

    def _look(self) -> None:
        """End a connection on which a body has not got on since the last look."""
        awaited = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        now = (awaited, self._received, self.flow.write_paused, self._resumed)
        was_awaited, received, was_paused, resumed = self._seen
        self._seen = now
        if awaited and was_awaited and self._received - received < LEAST_BYTES:
            self._end("body-too-slow")
        elif self.flow.write_paused and was_paused and self._resumed == resumed:
            self._end("answer-not-taken")
        else:
            self._look_later()

    def _end(self, why: str) -> None:
        if not self.transport.is_closing():
            self._on_refusal(why)
        self.transport.abort()
