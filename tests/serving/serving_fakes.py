"""Stand-ins for what surrounds a part of the frontend: time, requests, takers, batching rules, a worker's end."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from model_server.config.metrics_file import MetricsConfig
from model_server.errors import ServerError, WorkersFailed
from model_server.metrics.server_metrics import ServerMetrics
from model_server.serving.batching import Decision, Send, Situation, WaitUntil
from model_server.serving.jobs import InferenceRequest, Job
from model_server.serving.queue import JobQueue
from model_server.serving.replica import ReplicaPlan, State
from model_server.wire.frames import FrameDecoder
from model_server.wire.messages import Capabilities, Headers, ItemResult, Message, Part, RequestKind, decode, encode

DEADLINE_S = 20

# What the fixtures `virtual_time` and `real_time` are.
Run = Callable[[Coroutine[Any, Any, None]], None]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing is left to do, and then at once: timers are exact and cost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 1000.0

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if not self._ready:
            self._process_events(self._selector.select(0))
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]
        if not self._ready and timers:
            self._now_s = max(self._now_s, min(timers))
        super()._run_once()


def new_request(
    id: str = "r", body: bytes = b"x", kind: RequestKind = "predict", headers: Headers | None = None
) -> InferenceRequest:
    return InferenceRequest(id, kind, headers or [], [Part("body", body)])


def new_job(id: str = "r", body: bytes = b"x", kind: RequestKind = "predict", alone: bool = False) -> Job:
    """A job that arrives now; needs a running loop."""
    future = asyncio.get_running_loop().create_future()
    return Job(new_request(id, body, kind), future, time.monotonic(), alone=alone)


def ids(jobs: list[Job]) -> list[str]:
    return [job.request.id for job in jobs]


def no_metrics() -> ServerMetrics:
    """Measures, and declares nothing of it."""
    return ServerMetrics(MetricsConfig(), "here", lambda log_name, line: None)


@dataclass(eq=False)
class FakeTaker:
    """Notes what it is given, and is done with the oldest batch when the test says so."""

    name: str = "taker"
    device: str = "cpu:0"
    may_prefetch: bool = True
    cancelled: list[str] = field(default_factory=list)
    given: list[list[str]] = field(default_factory=list)
    kinds: list[RequestKind] = field(default_factory=list)
    _unanswered: list[tuple[RequestKind, list[Job]]] = field(default_factory=list)

    @property
    def outstanding(self) -> int:
        return len(self._unanswered)

    def send(self, kind: RequestKind, jobs: list[Job]) -> None:
        self.given.append(ids(jobs))
        self.kinds.append(kind)
        self._unanswered.append((kind, jobs))
        for job in jobs:
            job.cancel = self.cancel

    @property
    def is_exclusive(self) -> bool:
        return any(jobs[0].alone for _, jobs in self._unanswered)

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job.request.id)

    def answer(self, queue: JobQueue, service_s: float | None = 0.0) -> list[Job]:
        kind, jobs = self._unanswered.pop(0)
        for job in jobs:
            job.answer(ItemResult(job.request.id))
        queue.finished(self, kind, jobs, service_s)
        return jobs

    def die(self, queue: JobQueue) -> None:
        """What a replica does with the jobs of a worker that is gone."""
        queue.detach(self)
        lost, self._unanswered = self._unanswered, []
        for kind, jobs in lost:
            queue.finished(self, kind, jobs, None)
        queue.put_back([job for _, jobs in lost for job in jobs])


class EagerRule:
    """Sends what is there, spread over the free devices. Notes what it was asked and told."""

    def __init__(self, batch_size: int = 4, service_s: float = 0.0) -> None:
        self.batch_size = batch_size
        self.service_s = service_s
        self.situations: list[Situation] = []
        self.arrivals: list[tuple[int, int]] = []
        self.services_s: list[float] = []

    def arrived(self, outstanding: int, workers: int) -> None:
        self.arrivals.append((outstanding, workers))

    def finished(self, service_s: float) -> None:
        self.services_s.append(service_s)

    def decide(self, situation: Situation) -> Decision:
        self.situations.append(situation)
        return Send(min(self.batch_size, math.ceil(situation.waiting / situation.free_devices)))


class PatientRule(EagerRule):
    """Sends when the oldest job has waited `delay_s`."""

    def __init__(self, batch_size: int = 4, delay_s: float = 0.05) -> None:
        super().__init__(batch_size)
        self.delay_s = delay_s

    def decide(self, situation: Situation) -> Decision:
        due_s = situation.oldest_arrival_s + self.delay_s
        return super().decide(situation) if situation.now_s >= due_s else WaitUntil(due_s)


class ScriptedPeer:
    """The worker's end of a link, played by the test."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = FrameDecoder()
        self._received: list[Message] = []
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> Message:
        while not self._received:
            data = await asyncio.wait_for(self._loop.sock_recv(self._sock, 1 << 16), DEADLINE_S)
            if not data:
                raise EOFError
            self._received.extend(self._decode(data))
        return self._received.pop(0)

    def _decode(self, data: bytes) -> Iterator[Message]:
        return (decode(frame) for frame in self._decoder.feed(data))

    async def sends(self, *messages: Message) -> None:
        await self.sends_raw(b"".join(b"".join(encode(message)) for message in messages))

    async def sends_raw(self, data: bytes) -> None:
        await asyncio.wait_for(self._loop.sock_sendall(self._sock, data), DEADLINE_S)

    async def sends_garbage(self) -> None:
        await self.sends_raw(b"Traceback (most recent call last):\n")

    def dies(self) -> None:
        self._sock.close()


class FakeReplica:
    """A worker slot without a worker: the test says when it is ready, fails or has stopped.

    `made` is where a test finds those that a model has made.
    """

    made: ClassVar[list[FakeReplica]] = []
    stops_at_once: ClassVar[bool] = True

    def __init__(
        self,
        id: str,
        plan: ReplicaPlan,
        queue: JobQueue,
        learned: Callable[[Capabilities], None],
        gave_up: Callable[[], None],
    ) -> None:
        self.id = id
        self.plan = plan
        self.state: State = "starting"
        self.settled: asyncio.Future[ServerError | None] = asyncio.get_running_loop().create_future()
        self.may_stop = asyncio.Event()
        self.is_started = self.is_killed = False
        self._learned = learned
        self._gave_up = gave_up
        FakeReplica.made.append(self)

    @property
    def is_first_start(self) -> bool:
        return not self.settled.done()

    def start(self) -> None:
        self.is_started = True

    def becomes_ready(self, capabilities: Capabilities | None = None) -> None:
        self._learned(capabilities or Capabilities())
        self.state = "ready"
        if not self.settled.done():
            self.settled.set_result(None)

    def fails(self, error: ServerError) -> None:
        """Like a replica that has made all its attempts."""
        self.state = "failed"
        if not self.settled.done():
            self.settled.set_result(error)
        self._gave_up()

    def kill(self) -> None:
        self.is_killed = True
        self.may_stop.set()

    async def stop(self) -> None:
        self.state = "draining"
        if not FakeReplica.stops_at_once:
            await self.may_stop.wait()
        self.state = "stopped"
        if not self.settled.done():
            self.settled.set_result(WorkersFailed("stopped before it was ready"))
