"""The frontend's end of one worker's socketpair, for one life of that worker."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from model_server.metrics.server_metrics import HandlerSample
from model_server.serving.jobs import Job
from model_server.serving.streams import Stream
from model_server.wire.frames import Buffer, FrameDecoder, WireError
from model_server.wire.messages import (
    Cancel,
    Chunk,
    Credit,
    Failure,
    Loaded,
    Message,
    Predict,
    RequestKind,
    Result,
    Started,
    decode,
    encode,
)

log = logging.getLogger(__name__)

# How long a worker may be silent about a batch, by kind; None: as long as it likes.
Timeouts = Mapping[RequestKind, float | None]


@dataclass(slots=True, eq=False)
class Flight:
    """A batch that is with the worker.

    Attributes:
        started_s: when the worker began with it; None while it has not.
        heard_s: when it last said something about it.
        is_overdue: this was told.
    """

    batch_id: int
    kind: RequestKind
    jobs: list[Job]
    started_s: float | None = None
    heard_s: float = 0.0
    is_overdue: bool = False

    @property
    def is_plain(self) -> bool:
        """False for what takes long or may end badly."""
        return self.kind == "predict" and not self.jobs[0].alone

    @property
    def waits_for_client(self) -> bool:
        return any(job.stream is not None and job.stream.waits_for_client for job in self.jobs)


@dataclass(frozen=True, slots=True)
class LinkEvents:
    """Whom a link tells what.

    Attributes:
        finished: a batch was answered: (link, flight, seconds the worker took).
        overdue: the worker has not been heard of about this batch for longer than it may.
        recorded: its handler recorded these metrics.
    """

    finished: Callable[[Link, Flight, float], None]
    overdue: Callable[[Flight], None]
    recorded: Callable[[list[HandlerSample]], None]


class Link(asyncio.Protocol):
    """Sends batches to a worker and completes their jobs with its answers.

    The state here is `_flights`, the batches the worker has; `send` adds, a `Result` or `abandon` removes. `loaded` is
    completed by the worker's first message, `closed` by the end of the connection, which is the end of the worker. One
    timer watches all batches: it is set for the first that may be overdue, and not taken back when that is answered.

    Args:
        is_sequential: the worker does one batch after the other, in the order they were sent, and does not say when it
            begins with one. Others do.

    Attributes:
        fault: why we ended the connection ourselves, for describe and for the clients; None while we did not.
    """

    def __init__(self, device: str, timeouts_s: Timeouts, events: LinkEvents, *, is_sequential: bool) -> None:
        self.device = device
        self._is_sequential = is_sequential
        self._timeouts_s = timeouts_s
        self._events = events
        self._loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[Loaded | Failure] = self._loop.create_future()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.fault: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._flights: dict[int, Flight] = {}
        self._last_batch_id = 0
        self._not_plain = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._has_streamed = False
        self._decoder = FrameDecoder()
        self._unsent: list[Buffer] = []
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(
        cls, sock: socket.socket, device: str, timeouts_s: Timeouts, events: LinkEvents, *, is_sequential: bool
    ) -> Link:
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(
            lambda: cls(device, timeouts_s, events, is_sequential=is_sequential), sock=sock
        )
        return link

    @property
    def outstanding(self) -> int:
        return len(self._flights)

    @property
    def jobs_under_way(self) -> int:
        """Members of the batches that the worker has begun with."""
        return sum(len(flight.jobs) for flight in self._flights.values() if flight.started_s is not None)

    @property
    def may_prefetch(self) -> bool:
        # Nobody knows how long a stream takes, and meanwhile another worker may become free.
        return not self._has_streamed and not self._not_plain

    @property
    def is_exclusive(self) -> bool:
        return any(flight.jobs[0].alone for flight in self._flights.values())

    def send(self, kind: RequestKind, jobs: list[Job]) -> None:
        """Registers the batch and writes it; nothing can come between the two."""
        self._last_batch_id += 1
        flight = Flight(self._last_batch_id, kind, jobs)
        self._flights[flight.batch_id] = flight
        self._not_plain += not flight.is_plain
        self._idle.clear()
        now_s = time.monotonic()
        for job in jobs:
            job.cancel, job.sent_s = self.cancel, now_s
        self.write(Predict(flight.batch_id, kind, [job.item for job in jobs]))
        self._begin_next()

    def cancel(self, job: Job) -> None:
        """Tells the worker that nobody waits for this job; it answers all the same, when it is ready to."""
        for flight in self._flights.values():
            if job in flight.jobs:
                self.write(Cancel(flight.batch_id, flight.jobs.index(job)))

    def write(self, message: Message) -> None:
        """Writes to a worker that is gone are dropped: its end is noticed and dealt with elsewhere."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += encode(message)

    def _flush(self) -> None:
        """What one turn of the event loop has for the worker goes out together."""
        buffers, self._unsent = self._unsent, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(buffers)

    async def wait_loaded(self, timeout_s: float) -> None:
        """Returns when `loaded` or `closed` is done, or the time is up."""
        waits: list[asyncio.Future[Any]] = [self.loaded, self.closed]
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)

    async def wait_idle(self) -> None:
        """Returns when the worker has nothing to do."""
        await self._idle.wait()

    def abandon(self) -> list[Flight]:
        """Closes the connection and gives up every batch; whoever calls this settles their jobs."""
        if self._transport is not None:
            self._transport.abort()
        flights = list(self._flights.values())
        self._flights.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._idle.set()
        return flights

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._receive(decode(frame))
        except WireError as error:
            log.error("A worker does not speak our protocol and is given up: %s", error)
            self.fault = "It sent what is no message of a worker and was replaced."
            assert self._transport is not None
            self._transport.abort()

    def _receive(self, message: Message) -> None:
        match message:
            case Started():
                self._started(message)
            case Result():
                self._answered(message)
            case Chunk():
                self._continued(message)
            case Loaded() | Failure():
                if not self.loaded.done():
                    self.loaded.set_result(message)
            case _:
                raise WireError(f"unexpected {type(message).__name__}")

    def _started(self, message: Started) -> None:
        flight = self._flights.get(message.batch_id)
        if flight is None or flight.started_s is not None:
            raise WireError(f"started batch {message.batch_id}, which was not sent or had begun")
        self._begin(flight)

    def _begin(self, flight: Flight) -> None:
        flight.started_s = flight.heard_s = time.monotonic()
        self._watch(flight)

    def _begin_next(self) -> None:
        """Where nobody says so: the oldest batch is the one that the worker is at."""
        if self._is_sequential and self._flights:
            flight = next(iter(self._flights.values()))
            if flight.started_s is None:
                self._begin(flight)

    def _watch(self, flight: Flight) -> None:
        timeout_s = self._timeouts_s[flight.kind]
        if timeout_s is None:
            return
        due_s = flight.heard_s + timeout_s
        if self._timer is None or due_s < self._due_s:
            if self._timer is not None:
                self._timer.cancel()
            self._due_s = due_s
            self._timer = self._loop.call_later(max(0.0, due_s - time.monotonic()), self._look_after_all)

    def _look_after_all(self) -> None:
        self._timer = None
        for flight in tuple(self._flights.values()):
            timeout_s = self._timeouts_s[flight.kind]
            if flight.started_s is not None and timeout_s is not None and not flight.is_overdue:
                self._look_after(flight, timeout_s)

    def _look_after(self, flight: Flight, timeout_s: float) -> None:
        """A stream may go on for ever, if each of its parts comes in time. Waiting for a client is not hanging."""
        now_s = time.monotonic()
        if flight.waits_for_client:
            flight.heard_s = now_s
        if now_s - flight.heard_s >= timeout_s:
            flight.is_overdue = True
            self._events.overdue(flight)
        else:
            self._watch(flight)

    def _continued(self, message: Chunk) -> None:
        flight = self._flights.get(message.batch_id)
        if flight is None or not 0 <= message.index < len(flight.jobs):
            raise WireError(f"part {message.index} of batch {message.batch_id} does not match what was sent")
        flight.heard_s = time.monotonic()
        self._has_streamed = True
        job = flight.jobs[message.index]
        if job.on_headers is not None:
            job.on_headers(message.headers)
        if job.stream is None:
            credit = partial(self._credit, message.batch_id, message.index)
            job.begin(Stream(message, credit, partial(self.cancel, job)))
        if job.stream is not None:
            job.stream.feed(message.data)

    def _credit(self, batch_id: int, index: int, size_bytes: int) -> None:
        if (flight := self._flights.get(batch_id)) is not None:
            flight.heard_s = time.monotonic()  # it may have waited for this until now
            self.write(Credit(batch_id, index, size_bytes))

    def _answered(self, message: Result) -> None:
        flight = self._flights.get(message.batch_id)
        if flight is None or len(message.items) != len(flight.jobs):
            # The batch stays where `abandon` finds it: its jobs still wait for an answer.
            raise WireError(f"result of batch {message.batch_id} does not match what was sent")
        del self._flights[message.batch_id]
        self._not_plain -= not flight.is_plain
        self._begin_next()
        if not self._flights:
            self._idle.set()
        for job, answer in zip(flight.jobs, message.items, strict=True):
            job.answer(answer)
        now_s = time.monotonic()
        service_s = message.service_s if message.service_s is not None else now_s - (flight.started_s or now_s)
        self._events.finished(self, flight, service_s)
        if message.samples:
            self._events.recorded(message.samples)
