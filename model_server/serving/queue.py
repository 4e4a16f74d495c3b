"""The waiting jobs of one model version, and who gets them next.

Jobs of different kinds wait in lanes of their own, because a batch never mixes kinds. `_assign` is the only place where
a job leaves the queue for a worker; it runs synchronously, after everything that could change its outcome, and hands
the batch over in the same breath. So nothing is ever between queue and worker, and nothing can be lost there.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from model_server.errors import QueueFull
from model_server.serving.batching import BatchRule, Send, Situation
from model_server.serving.jobs import Job
from model_server.wire.messages import RequestKind

# A worker must not wait for the pipe, so full batches may be sent ahead of time. One is enough where a batch takes a
# millisecond; for faster ones the round trip must be covered: echo at concurrency 16 served 8,210 requests/s with one
# batch outstanding, 10,889 with two, 13,411 with four, 16,048 with sixteen.
_SLOW_BATCH_S = 0.001
_AHEAD_SLOW, _AHEAD_FAST = 1, 8
_ONE = Send(1)


class Taker(Protocol):
    """A worker that can be given batches."""

    device: str

    @property
    def outstanding(self) -> int:
        """Batches given to it and not answered."""
        ...

    @property
    def may_prefetch(self) -> bool:
        """False while it works on something that takes long or may end badly."""
        ...

    @property
    def is_exclusive(self) -> bool:
        """True while it works on a job that must be alone."""
        ...

    def send(self, kind: RequestKind, jobs: list[Job]) -> None: ...


class Lane:
    """Waiting jobs of one kind, oldest first; only `JobQueue` changes it.

    Attributes:
        in_flight: jobs of this kind with workers.
        busy: workers that have jobs of this kind.
        length_batching: members of a batch are chosen for similar length.
    """

    def __init__(self, kind: RequestKind, rule: BatchRule) -> None:
        self.kind = kind
        self.rule = rule
        self.jobs: deque[Job] = deque()
        self.in_flight = 0
        self.busy = 0
        self.last_arrival_s = 0.0
        self.length_batching = False

    def take(self, size: int) -> list[Job]:
        """Removes up to `size` jobs: the oldest one always, a job that must be alone only alone."""
        if self.jobs[0].alone or size <= 1:
            return [self.jobs.popleft()]
        if self.length_batching and len(self.jobs) > size:
            return self._take_similar(size)
        batch: list[Job] = []
        while self.jobs and len(batch) < size and not self.jobs[0].alone:
            batch.append(self.jobs.popleft())
        return batch

    def _take_similar(self, size: int) -> list[Job]:
        """The oldest job and those closest to it in length: texts in one batch are padded to the longest of them."""
        oldest = self.jobs[0]
        mixable = [job for job in self.jobs if not job.alone]
        mixable.sort(key=lambda job: (job is not oldest, abs(job.size_bytes - oldest.size_bytes), job.arrived_s))
        batch = mixable[:size]
        chosen = set(map(id, batch))
        self.jobs = deque(job for job in self.jobs if id(job) not in chosen)
        return batch


class JobQueue:
    """The queue of one model version.

    The state here is the lanes, the attached takers with the moment each became free, and one timer. It is changed only
    by the methods below, on the event loop's thread.
    """

    def __init__(self, capacity: int, rules: dict[RequestKind, BatchRule]) -> None:
        self.capacity = capacity
        self._lanes = {kind: Lane(kind, rule) for kind, rule in rules.items()}
        self._turn: deque[Lane] = deque(self._lanes.values())
        self._free_since_s: dict[Taker, float] = {}
        self._takers: list[Taker] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return sum([len(lane.jobs) for lane in self._lanes.values()])

    @property
    def outstanding(self) -> int:
        """Jobs that wait or are with workers."""
        return len(self) + sum(lane.in_flight for lane in self._lanes.values())

    @property
    def has_worker(self) -> bool:
        return bool(self._takers)

    @property
    def has_free_worker(self) -> bool:
        """True when one more job would not have to wait for a worker (`useJobTicket`)."""
        return len(self) < len(self._free_since_s)

    def lane(self, kind: RequestKind) -> Lane:
        return self._lanes[kind]

    def put(self, job: Job) -> None:
        """Adds a job at the end of its lane; raises `QueueFull` at once when there is no room."""
        if len(self) >= self.capacity:
            raise QueueFull(f"The queue is full: {self.capacity} requests wait (job_queue_size).", self._drain_s())
        lane = self._lanes[job.request.kind]
        lane.jobs.append(job)
        lane.last_arrival_s = job.arrived_s
        lane.rule.arrived(len(lane.jobs) + lane.in_flight, len(self._takers))
        self._assign()

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Returns jobs of a worker that is gone to the head of their lanes, order kept."""
        for job in reversed([job for job in jobs if not job.is_over]):
            job.cancel = None
            self._lanes[job.request.kind].jobs.appendleft(job)
        self._assign()

    def discard(self, job: Job) -> None:
        """Forgets a job nobody waits for; a worker that has it already is told."""
        if job.cancel is not None:
            job.cancel(job)
        elif job in (waiting := self._lanes[job.request.kind].jobs):
            waiting.remove(job)
            self._assign()

    def drop_all(self) -> list[Job]:
        """Empties the queue; the caller answers the jobs."""
        dropped = [job for lane in self._lanes.values() for job in lane.jobs]
        for lane in self._lanes.values():
            lane.jobs.clear()
        return dropped

    def attach(self, taker: Taker) -> None:
        self._takers.append(taker)
        self._free_since_s[taker] = time.monotonic()
        self._assign()

    def detach(self, taker: Taker) -> None:
        """Gives the taker nothing any more; what it has, it keeps."""
        if taker in self._takers:
            self._takers.remove(taker)
            self._free_since_s.pop(taker, None)

    def finished(self, taker: Taker | None, kind: RequestKind, jobs: list[Job], service_s: float | None) -> None:
        """A batch left its worker, answered (then `service_s` is how long the worker took) or not."""
        lane = self._lanes[kind]
        lane.in_flight -= len(jobs)
        lane.busy -= 1
        if service_s is not None:
            lane.rule.finished(service_s)
        if taker is not None and taker in self._takers and taker.outstanding == 0:
            self._free_since_s[taker] = time.monotonic()
        self._assign()

    def _assign(self) -> None:
        """Gives batches to free workers until the rules say wait, then full ones to busy workers that may prefetch."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_s = self._serve_free()
        if not self._free_since_s:
            self._prefetch()
        if wake_s is not None:
            self._timer = self._loop.call_later(max(0.0, wake_s - time.monotonic()), self._assign)

    def _serve_free(self) -> float | None:
        """Returns when to look again, or None when only an arrival or a free worker can change anything."""
        while self._free_since_s:
            wake_s = None
            for lane in tuple(self._turn):
                if not lane.jobs or not self._may_use_another_worker(lane):
                    continue
                taker, free_since_s = next(iter(self._free_since_s.items()))
                # A job that is or must be alone has nobody to wait for.
                is_alone = lane.rule.batch_size == 1 or lane.jobs[0].alone
                decision = _ONE if is_alone else lane.rule.decide(self._situation(lane, free_since_s))
                if isinstance(decision, Send):
                    self._give(taker, lane, lane.take(decision.size))
                    break
                wake_s = decision.when_s if wake_s is None else min(wake_s, decision.when_s)
            else:
                return wake_s
        return None

    def _situation(self, lane: Lane, free_since_s: float) -> Situation:
        return Situation(
            now_s=time.monotonic(),
            waiting=len(lane.jobs),
            in_flight=lane.in_flight,
            oldest_arrival_s=lane.jobs[0].arrived_s,
            last_arrival_s=lane.last_arrival_s,
            free_since_s=free_since_s,
            free_devices=len({taker.device for taker in self._free_since_s}),
        )

    def _prefetch(self) -> None:
        """Only batches that cannot grow any more are sent ahead, and only predictions."""
        lane = self._lanes["predict"]
        is_fast = 0 < lane.rule.service_s < _SLOW_BATCH_S  # 0: no batch has been timed yet
        limit = 1 + (_AHEAD_FAST if is_fast else _AHEAD_SLOW)
        while len(lane.jobs) >= lane.rule.batch_size and not lane.jobs[0].alone:
            willing = [taker for taker in self._takers if taker.outstanding < limit and taker.may_prefetch]
            if not willing:
                return
            taker = willing[0] if len(willing) == 1 else min(willing, key=lambda taker: taker.outstanding)
            self._give(taker, lane, lane.take(lane.rule.batch_size))

    def _give(self, taker: Taker, lane: Lane, batch: list[Job]) -> None:
        self._free_since_s.pop(taker, None)
        lane.in_flight += len(batch)
        lane.busy += 1
        self._turn.remove(lane)
        self._turn.append(lane)
        taker.send(lane.kind, batch)

    def _may_use_another_worker(self, lane: Lane) -> bool:
        """Explanations take long; one worker stays free of them so that predictions go on."""
        return lane.kind != "explain" or lane.busy < max(1, len(self._takers) - 1)

    def _drain_s(self) -> int:
        """A guess, in whole seconds, at how long the waiting jobs will take."""
        rule = self._lanes["predict"].rule
        batches = len(self) / max(1, rule.batch_size * len(self._takers))
        return max(1, round(batches * rule.service_s + 0.5))
