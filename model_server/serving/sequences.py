"""Stateful inference: requests of one sequence go to one worker, one at a time, in the order in which they came.

A sequence begins with its first request and belongs to one worker from then on, because that worker holds its state.
It ends when nothing was asked of it for a while, when its time is up, when the handler says so (with continuous
batching), or with its worker; then its state is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from model_server.config.server import SequenceHeaders
from model_server.errors import QueueFull, ServiceUnavailable
from model_server.serving.batching import BatchRule, Send, Situation
from model_server.serving.jobs import InferenceRequest, Job
from model_server.serving.queue import Taker
from model_server.serving.slots import SlotQueue
from model_server.wire.messages import Headers, RequestKind

_NEW_ID = "ts-seq-"


@dataclass(frozen=True, slots=True)
class SequenceLimits:
    """0 ms is never.

    Attributes:
        slots: requests of different sequences that a worker may have at once with continuous batching; None without.
    """

    headers: SequenceHeaders
    max_sequences: int
    max_queued: int
    max_idle_ms: int
    timeout_ms: int
    slots: int | None = None


def with_sequence(request: InferenceRequest, headers: SequenceHeaders) -> InferenceRequest:
    """A request that names no sequence begins one: it gets an id, which the handler may send back."""
    if _header(request, headers.id):
        return request
    new = [(headers.id, f"{_NEW_ID}{request.id}"), (headers.start, "true")]
    return replace(request, headers=request.headers + new)


def _header(request: InferenceRequest, name: str) -> str | None:
    return next((value for key, value in reversed(request.headers) if key == name), None)


@dataclass(slots=True, eq=False)
class Sequence:
    """A live sequence and its waiting requests. `owner` is None while no worker is there.

    Attributes:
        has_begun: the owner was given a request and may hold state; before, any worker will do.
        is_busy: one of its requests is with the worker.
        timers: what will end it.
    """

    id: str
    owner: Owner | None = None
    jobs: deque[Job] = field(default_factory=deque)
    has_begun: bool = False
    is_busy: bool = False
    idle_timer: asyncio.TimerHandle | None = None
    life_timer: asyncio.TimerHandle | None = None


@dataclass(slots=True, eq=False)
class Owner:
    """A worker and the sequences whose state it holds."""

    taker: Taker
    rule: BatchRule
    sequences: dict[str, Sequence] = field(default_factory=dict)
    last_arrival_s: float = 0.0

    def ready(self) -> list[Sequence]:
        """Sequences whose next request may go, those that wait longest first."""
        waiting = [sequence for sequence in self.sequences.values() if sequence.jobs and not sequence.is_busy]
        return sorted(waiting, key=lambda sequence: sequence.jobs[0].arrived_s)


class SequenceQueue(SlotQueue):
    """Predictions wait in their sequences; explanations and describe requests, which have no state, in their lanes.

    The state here, besides the lanes, is the live sequences, who owns them, which request of which is with a worker,
    and the ids whose worker was lost a short while ago.
    """

    def __init__(
        self,
        capacity: int,
        rules: dict[RequestKind, BatchRule],
        new_rule: Callable[[], BatchRule],
        limits: SequenceLimits,
    ) -> None:
        super().__init__(capacity, rules, limits.slots or 1)
        self._limits = limits
        self._new_rule = new_rule
        self._sequences: dict[str, Sequence] = {}
        self._owners: dict[Taker, Owner] = {}
        self._running: dict[Job, Sequence] = {}
        self._lost: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return super().__len__() + sum(len(sequence.jobs) for sequence in self._sequences.values())

    def put(self, job: Job) -> None:
        """Raises `QueueFull`, and `ServiceUnavailable` when the sequence's state is lost."""
        if job.request.kind != "predict":
            super().put(job)
            return
        sequence = self._sequence_of(job.request)
        if len(sequence.jobs) >= self._limits.max_queued:
            text = f"{len(sequence.jobs)} requests of sequence {sequence.id!r} wait (maxSequenceJobQueueSize)."
            raise QueueFull(text, self._drain_s())
        if self._limits.slots is not None:
            job.on_headers = self._heed_end
        sequence.jobs.append(job)
        _stop(sequence.idle_timer)
        if sequence.owner is not None:
            sequence.owner.last_arrival_s = job.arrived_s
            sequence.owner.rule.arrived(len(sequence.owner.ready()), 1)
        self._assign()

    def put_back(self, jobs: Iterable[Job]) -> None:
        """A dead worker took the state of its sequences with it: their requests cannot be repeated."""
        stateless = []
        for job in jobs:
            if job.request.kind == "predict":
                job.fail(ServiceUnavailable(_lost_text(_header(job.request, self._limits.headers.id) or "")))
            else:
                stateless.append(job)
        super().put_back(stateless)

    def discard(self, job: Job) -> None:
        for sequence in self._sequences.values():
            if job in sequence.jobs:
                sequence.jobs.remove(job)
                self._rest(sequence)
                return
        super().discard(job)

    def drop_all(self) -> list[Job]:
        dropped = [job for sequence in self._sequences.values() for job in sequence.jobs]
        for sequence in self._sequences.values():
            sequence.jobs.clear()
            self._rest(sequence)
        return dropped + super().drop_all()

    def attach(self, taker: Taker) -> None:
        self._owners[taker] = Owner(taker, self._new_rule())
        for sequence in self._sequences.values():
            if not sequence.has_begun:
                self._find_owner(sequence)
        super().attach(taker)

    def detach(self, taker: Taker) -> None:
        super().detach(taker)
        owner = self._owners.pop(taker, None)
        for sequence in tuple(owner.sequences.values()) if owner else ():
            if sequence.has_begun:
                self._lose(sequence)
            else:
                self._find_owner(sequence)
        self._assign()

    def finished(self, taker: Taker | None, kind: RequestKind, jobs: list[Job], service_s: float | None) -> None:
        for job in jobs:
            if (sequence := self._running.pop(job, None)) is not None:
                sequence.is_busy = False
                self._rest(sequence)
        if kind == "predict" and service_s is not None and taker in self._owners:
            self._owners[taker].rule.finished(service_s)
        super().finished(taker, kind, jobs, service_s)

    # --- giving requests to workers ---

    def _assign(self) -> None:
        super()._assign()
        _stop(self._timer)
        wakes_s = [wake_s for owner in self._owners.values() if (wake_s := self._serve(owner)) is not None]
        if wakes_s:
            self._timer = self._loop.call_later(max(0.0, min(wakes_s) - time.monotonic()), self._assign)

    def _serve(self, owner: Owner) -> float | None:
        """Gives a worker what it may have; returns when to look again."""
        taker = owner.taker
        while taker.outstanding < self._slots and not taker.is_exclusive and (ready := owner.ready()):
            decision = owner.rule.decide(self._situation_of(owner, ready))
            if not isinstance(decision, Send):
                return decision.when_s
            batch = [sequence.jobs.popleft() for sequence in ready[: decision.size]]
            for job, sequence in zip(batch, ready, strict=False):
                sequence.has_begun = sequence.is_busy = True
                self._running[job] = sequence
            self._give(taker, self._lanes["predict"], batch)
        return None

    def _situation_of(self, owner: Owner, ready: list[Sequence]) -> Situation:
        now_s = time.monotonic()
        return Situation(
            now_s=now_s,
            waiting=len(ready),
            in_flight=0,
            oldest_arrival_s=ready[0].jobs[0].arrived_s,
            last_arrival_s=owner.last_arrival_s,
            free_since_s=self._free_since_s.get(owner.taker, now_s),
        )

    # --- the life of a sequence ---

    def _sequence_of(self, request: InferenceRequest) -> Sequence:
        headers = self._limits.headers
        id = _header(request, headers.id)
        assert id is not None, "with_sequence gives every request an id"
        if id in self._sequences:
            return self._sequences[id]
        if id in self._lost:
            if (_header(request, headers.start) or "").lower() != "true":
                raise ServiceUnavailable(f"{_lost_text(id)} Begin a new one with the header {headers.start}: true.")
            self._lost.pop(id).cancel()
        if len(self._sequences) >= self._limits.max_sequences:
            idle_s = -(-self._limits.max_idle_ms // 1000)
            raise QueueFull(f"{len(self._sequences)} sequences are open (maxNumSequence).", idle_s)
        return self._open(id)

    def _open(self, id: str) -> Sequence:
        sequence = self._sequences[id] = Sequence(id)
        if self._limits.timeout_ms:
            text = f"Sequence {id!r} has expired (sequenceTimeoutMSec)."
            sequence.life_timer = self._loop.call_later(self._limits.timeout_ms / 1000, self._end, sequence, text)
        self._find_owner(sequence)
        return sequence

    def _find_owner(self, sequence: Sequence) -> None:
        """The worker with the fewest sequences, or none while there is no worker."""
        if sequence.owner is not None:
            del sequence.owner.sequences[sequence.id]
        sequence.owner = min(self._owners.values(), key=lambda owner: len(owner.sequences), default=None)
        if sequence.owner is not None:
            sequence.owner.sequences[sequence.id] = sequence

    def _rest(self, sequence: Sequence) -> None:
        """Nothing to do for now; a sequence that rests too long has ended."""
        if not sequence.jobs and not sequence.is_busy:
            _stop(sequence.idle_timer)
            sequence.idle_timer = self._loop.call_later(self._limits.max_idle_ms / 1000, self._end, sequence, "")

    def _end(self, sequence: Sequence, text: str) -> None:
        """Forgets a sequence, unless it has ended before; requests that still wait in it are answered with `text`."""
        if self._sequences.get(sequence.id) is not sequence:
            return
        del self._sequences[sequence.id]
        if sequence.owner is not None:
            sequence.owner.sequences.pop(sequence.id, None)
        _stop(sequence.idle_timer)
        _stop(sequence.life_timer)
        while sequence.jobs:
            sequence.jobs.popleft().fail(ServiceUnavailable(text))

    def _lose(self, sequence: Sequence) -> None:
        """Ends a sequence whose state is gone, and knows for a while that it was there."""
        self._end(sequence, _lost_text(sequence.id))
        idle_s = self._limits.max_idle_ms / 1000
        self._lost[sequence.id] = self._loop.call_later(idle_s, self._lost.pop, sequence.id, None)

    def _heed_end(self, headers: Headers) -> None:
        """The handler names the sequences it is done with, separated by semicolons."""
        for name, value in headers:
            if name == self._limits.headers.end:
                for id in map(str.strip, value.split(";")):
                    if (sequence := self._sequences.get(id)) is not None:
                        self._end(sequence, f"Sequence {id!r} is closed.")


def _lost_text(id: str) -> str:
    return f"The worker that held the state of sequence {id!r} is gone."


def _stop(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
