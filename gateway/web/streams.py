"""Answers that leave piece by piece, each piece made in a worker thread."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from gateway.web.doorman import CONNECTION_KEY, Connection


class PieceByPiece(Response):
    """An answer whose length nobody knows before its end.

    Where a piece cannot be made, the connection is closed before the last chunk:
    the client cannot take what it has for all there is.

    Parameters
    ----------
    pieces
        Closed when the answer is over, however it ends.
    media_type
        With its parameters.
    headers
        Further ones.
    """

    def __init__(
        self,
        pieces: Generator[bytes, None, None],
        media_type: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, headers=headers)
        del self.headers["content-length"]
        self.headers["content-type"] = media_type
        self._pieces = pieces

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        connection: Connection = scope["state"][CONNECTION_KEY]
        start = {"type": "http.response.start", "status": self.status_code}
        try:
            await send({**start, "headers": self.raw_headers})
            while not connection.closed:
                piece = await run_in_threadpool(next, self._pieces, None)
                if piece is None:
                    await send({"type": "http.response.body", "body": b""})
                    return
                body = {"type": "http.response.body", "body": piece}
                await send({**body, "more_body": True})
        finally:
            await run_in_threadpool(self._pieces.close)
