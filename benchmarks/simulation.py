"""The batching rule without a server: clients, workers on devices, and a clock that moves from event to event.

What is left out: the queue's lanes, prefetch, and everything that takes time besides the model and the client.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from model_server.serving.batching import BatchRule, Decision, Send, Situation, WaitUntil

# How long a client takes from an answer to its next request.
TURNAROUND_S = 0.001
_ARRIVALS_SEED = 5

Callback = Callable[[], None]


def gpu_like(batch: int) -> float:
    """Seconds for a batch: mostly fixed cost, as on a GPU."""
    return 0.008 + 0.0002 * batch


class ImmediateRule:
    """What a server without waiting does: whatever is there goes when a worker is free."""

    service_s = 0.0

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def arrived(self, outstanding: int, workers: int) -> None: ...

    def finished(self, service_s: float) -> None: ...

    def decide(self, situation: Situation) -> Decision:
        return Send(min(self.batch_size, situation.waiting))


class Clock:
    """Events in order of time. The state here is the time and the events to come."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()

    def at(self, when_s: float, action: Callback) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), action))

    def run(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._events)
            action()


@dataclass(slots=True, eq=False)
class _Run:
    left_s: float
    done: Callback


class Device:
    """Runs what its workers give it at the same time, each at an equal share of its speed.

    So take turns the kernels of several processes on a GPU. The state here is what is left of each batch.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: list[_Run] = []
        self._since_s = 0.0
        self._plan = 0

    def run(self, alone_s: float, done: Callback) -> None:
        """`alone_s`: how long it takes when nothing else runs."""
        self._advance()
        self._runs.append(_Run(alone_s, done))
        self._plan_next()

    def _advance(self) -> None:
        share_s = (self._clock.now_s - self._since_s) / max(1, len(self._runs))
        for run in self._runs:
            run.left_s -= share_s
        self._since_s = self._clock.now_s

    def _plan_next(self) -> None:
        """The plan before this one no longer holds: its number has passed."""
        self._plan += 1
        if self._runs:
            next_run, plan = min(self._runs, key=lambda run: run.left_s), self._plan
            self._clock.at(self._clock.now_s + next_run.left_s * len(self._runs), lambda: self._finish(next_run, plan))

    def _finish(self, run: _Run, plan: int) -> None:
        if plan == self._plan:
            self._advance()
            self._runs.remove(run)
            self._plan_next()
            run.done()


@dataclass(frozen=True, slots=True)
class _Worker:
    device: Device
    free_since_s: float


@dataclass(frozen=True, slots=True)
class _Request:
    arrived_s: float
    answered: Callback


class Simulation:
    """One model. The state here is its waiting requests, its free workers and what has been seen so far.

    Attributes:
        latencies_s: of the answers so far, in their order.
        batches: sizes of the batches so far.
    """

    def __init__(
        self, rule: BatchRule, workers: Sequence[int] = (0,), service: Callable[[int], float] = gpu_like
    ) -> None:
        """`workers`: the number of the device that each works on; `service`: seconds for a batch of that size."""
        self.latencies_s: list[float] = []
        self.batches: list[int] = []
        self._rule, self._service, self._clock = rule, service, Clock()
        devices = {number: Device(self._clock) for number in workers}
        self._free = deque(_Worker(devices[number], 0.0) for number in workers)
        self._workers = len(workers)
        self._waiting: deque[_Request] = deque()
        self._in_flight = 0
        self._last_arrival_s = 0.0

    def closed_loop(self, clients: int, seconds: float) -> float:
        """Clients that wait for their answer before they ask again; returns requests per second."""

        def ask() -> None:
            self._arrive(lambda: self._clock.at(self._clock.now_s + TURNAROUND_S, ask))

        for number in range(clients):
            self._clock.at(number * 1e-5, ask)
        self._clock.run(seconds)
        return len(self.latencies_s) / seconds

    def open_loop(self, per_second: float, seconds: float) -> float:
        """Poisson arrivals; returns requests per second."""
        when_s, source = 0.0, random.Random(_ARRIVALS_SEED)
        while (when_s := when_s + source.expovariate(per_second)) < seconds:
            self._clock.at(when_s, lambda: self._arrive(lambda: None))
        self._clock.run(seconds + 1)
        return len(self.latencies_s) / seconds

    @property
    def p50_s(self) -> float:
        return median(self.latencies_s)

    def _arrive(self, answered: Callback) -> None:
        self._last_arrival_s = self._clock.now_s
        self._waiting.append(_Request(self._clock.now_s, answered))
        self._rule.arrived(len(self._waiting) + self._in_flight, self._workers)
        self._assign()

    def _assign(self) -> None:
        while self._waiting and self._free:
            decision = self._rule.decide(self._situation())
            if isinstance(decision, WaitUntil):
                self._clock.at(decision.when_s, self._assign)
                return
            self._start(self._free.popleft(), [self._waiting.popleft() for _ in range(decision.size)])

    def _situation(self) -> Situation:
        return Situation(
            now_s=self._clock.now_s,
            waiting=len(self._waiting),
            in_flight=self._in_flight,
            oldest_arrival_s=self._waiting[0].arrived_s,
            last_arrival_s=self._last_arrival_s,
            free_since_s=self._free[0].free_since_s,
            free_devices=len({worker.device for worker in self._free}),
        )

    def _start(self, worker: _Worker, batch: list[_Request]) -> None:
        self._in_flight += len(batch)
        self.batches.append(len(batch))
        started_s = self._clock.now_s
        worker.device.run(self._service(len(batch)), lambda: self._finish(worker, batch, started_s))

    def _finish(self, worker: _Worker, batch: list[_Request], started_s: float) -> None:
        now_s = self._clock.now_s
        self._in_flight -= len(batch)
        self._free.append(_Worker(worker.device, now_s))
        self._rule.finished(now_s - started_s)
        for request in batch:
            self.latencies_s.append(now_s - request.arrived_s)
            request.answered()
        self._assign()
