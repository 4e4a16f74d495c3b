"""Answers that come in parts: from the link, which feeds them, to the client's adapter, which reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from model_server.errors import HandlerFailed, ServerError
from model_server.wire.frames import Buffer
from model_server.wire.messages import STREAM_WINDOW_BYTES, Chunk, ItemResult, window_share

# Workers are told what clients took in portions of this size.
_CREDIT_BYTES = STREAM_WINDOW_BYTES // 4
# Models that serve many requests at once do not wait for one client; one that is this far behind is given up.
_MOST_BUFFERED_BYTES = 64 << 20


# A client that takes a part more slowly holds up the worker that streams to it.
_SLOWEST_CLIENT_S = 60.0
_SLOWEST_CLIENT_BYTES_PER_S = 10_000


def patience_s(part_bytes: int) -> float:
    """How long a client may take for a part of this size, whichever protocol it speaks."""
    return _SLOWEST_CLIENT_S + part_bytes / _SLOWEST_CLIENT_BYTES_PER_S


class Stream:
    """One answer under way. Status, reason and headers are those of its first part.

    The state here is the parts that nobody has read yet, and whether more will come.

    Args:
        credit: told how much the client took.
        cancel: called when nobody will read the rest.
    """

    def __init__(self, first: Chunk, credit: Callable[[int], None], cancel: Callable[[], None]) -> None:
        self.status = first.status
        self.reason = first.reason
        self.headers = first.headers
        self._credit = credit
        self._cancel = cancel
        self._parts: deque[Buffer] = deque()
        self._changed = asyncio.Event()
        self._buffered_bytes = 0
        self._taken_bytes = 0
        self._error: ServerError | None = None
        self.is_over = False

    @property
    def waits_for_client(self) -> bool:
        """True when the worker may have to wait until the client has taken what is here."""
        return not self.is_over and self._buffered_bytes >= STREAM_WINDOW_BYTES - _CREDIT_BYTES

    def feed(self, part: Buffer) -> None:
        """Adds a part; parts of a stream that is over are dropped."""
        if self.is_over:
            return
        if self._buffered_bytes > _MOST_BUFFERED_BYTES:
            self.fail(ServerError("The client takes the answer too slowly."))
            self._cancel()
        else:
            self._add(part)

    def finish(self, last: ItemResult) -> None:
        """Ends the stream with the handler's result, or with the error the worker decided on."""
        if last.error is not None:
            self.fail(HandlerFailed(last.error, status=last.status))
        elif not self.is_over:
            self._add(last.body)
            self.is_over = True

    def fail(self, error: ServerError) -> None:
        """Ends the stream where it is; who reads it learns why, after the parts that are there."""
        if not self.is_over:
            self._error, self.is_over = error, True
            self._changed.set()

    def abandon(self) -> None:
        """Nobody reads on: the handler need not go on either."""
        self._parts.clear()
        if not self.is_over:
            self.is_over = True
            self._cancel()

    async def __aiter__(self) -> AsyncIterator[Buffer]:
        """The parts in order, none of them empty. Raises the error the stream ended with."""
        while True:
            while self._parts:
                part = self._parts.popleft()
                if part:
                    yield part
                self._take(window_share(part))
            if self._error is not None:
                raise self._error
            if self.is_over:
                return
            self._changed.clear()
            await self._changed.wait()

    def _add(self, part: Buffer) -> None:
        self._parts.append(part)
        self._buffered_bytes += window_share(part)
        self._changed.set()

    def _take(self, size_bytes: int) -> None:
        self._buffered_bytes -= size_bytes
        self._taken_bytes += size_bytes
        if self._taken_bytes >= _CREDIT_BYTES and not self.is_over:
            self._credit(self._taken_bytes)
            self._taken_bytes = 0
