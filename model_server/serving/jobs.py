"""A request as every protocol hands it over, and the promise to answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from model_server.errors import DeadlineExceeded, ServerError
from model_server.serving.streams import Stream
from model_server.wire.messages import Headers, ItemResult, Part, PredictItem, RequestKind

# What a job ends with, whole or in parts; errors of the server come as exceptions.
Answer: TypeAlias = ItemResult | Stream


@dataclass(slots=True)
class InferenceRequest:
    """What a client asks of one model version.

    Attributes:
        id: sent back as `x-request-id`, and what the handler sees as request id.
        headers: as the client spelled them, plus those the route adds (`explain`, `url_path`, `describe`).
        version: the version the client named, or None.
    """

    id: str
    kind: RequestKind
    headers: Headers
    parts: list[Part]
    version: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(len(part.data) for part in self.parts)


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way.

    The future is completed by whoever holds the job: the queue when it expires, the link with the worker's answer, the
    replica when the worker died. It is cancelled by the client's adapter only.

    Attributes:
        arrived_s: when it was queued, by `time.monotonic` (uvloop's own clock ticks in milliseconds).
        deaths: how many workers died while they worked on it.
        alone: it must not share a batch, because one it shared has ended badly.
        stream: the answer, once its first part is there.
        cancel: tells the worker that has the job that nobody waits for it; None while no worker has it.
        on_headers: is shown the headers of every part of the answer.
        sent_s: when it was given to a worker, the last time.
        measure: is told how it ended, with the answer or an error.
    """

    request: InferenceRequest
    future: asyncio.Future[Answer]
    arrived_s: float
    size_bytes: int = field(init=False)
    deaths: int = 0
    alone: bool = False
    stream: Stream | None = None
    cancel: Callable[[Job], None] | None = None
    on_headers: Callable[[Headers], None] | None = None
    sent_s: float = 0.0
    measure: Callable[[Job, bool], None] | None = None

    def __post_init__(self) -> None:
        self.size_bytes = self.request.size_bytes

    @property
    def item(self) -> PredictItem:
        return PredictItem(self.request.id, self.request.headers, self.request.parts)

    @property
    def is_over(self) -> bool:
        """True when nobody waits for the answer any more, or for more of it."""
        return self.future.done() and (self.stream is None or self.stream.is_over)

    def begin(self, stream: Stream) -> None:
        """The answer comes in parts."""
        if not self.future.done():
            self.stream = stream
            self.future.set_result(stream)

    def answer(self, answer: ItemResult) -> None:
        """The whole answer, or the last part of it."""
        if self.on_headers is not None:
            self.on_headers(answer.headers)
        self._measure(is_answered=answer.error is None)
        if self.stream is not None:
            self.stream.finish(answer)
        elif not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: ServerError) -> None:
        self._measure(is_answered=False)
        if self.stream is not None:
            self.stream.fail(error)
        elif not self.future.done():
            self.future.set_exception(error)

    def _measure(self, *, is_answered: bool) -> None:
        if self.measure is not None and not self.is_over:
            self.measure(self, is_answered)

    def expire(self, after_ms: int) -> None:
        self.fail(DeadlineExceeded(f"The request was not answered within {after_ms} ms (clientTimeoutInMills)."))
