"""When to send how many waiting jobs: the rule, without queue, clock or workers.

A batch makes each of its members wait for the others, and saves work for all of them. Within the bounds the operator
sets (`batch_size` and `max_batch_delay`) the adaptive rule waits only while waiting pays: until everybody who was
recently there is there again, or until arrivals pause for a quarter of a batch's service time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

# Weight of the newest batch in the moving average of the service time.
_NEWEST_WEIGHT = 0.2


class Situation(NamedTuple):
    """What a rule decides on. Times in seconds on one clock.

    Attributes:
        waiting: jobs in the queue, at least one.
        in_flight: jobs with workers.
        oldest_arrival_s, last_arrival_s: when the first and the last of the waiting jobs came.
        free_since_s: when the worker that asks became free.
        free_devices: devices with a free worker, at least one.
    """

    now_s: float
    waiting: int
    in_flight: int
    oldest_arrival_s: float
    last_arrival_s: float
    free_since_s: float
    free_devices: int = 1


@dataclass(frozen=True, slots=True)
class Send:
    """Give this many jobs, the oldest ones, to the worker now."""

    size: int


@dataclass(frozen=True, slots=True)
class WaitUntil:
    """Decide again then, or earlier when something changes."""

    when_s: float


Decision = Send | WaitUntil


class BatchRule(Protocol):
    """Told of arrivals and finished batches; asked whenever a worker is free and jobs wait."""

    batch_size: int

    @property
    def service_s(self) -> float:
        """Moving average of the time a worker takes for a batch; 0 before the first one."""
        ...

    def arrived(self, outstanding: int, workers: int) -> None:
        """A job came; `outstanding` counts it and all others that wait or are in flight."""
        ...

    def finished(self, service_s: float) -> None:
        """A worker was done with a batch."""
        ...

    def decide(self, situation: Situation) -> Decision: ...


class AdaptiveRule:
    """The default.

    The state here is `target`, how many jobs were recently outstanding at once, and the average service time.
    """

    def __init__(self, batch_size: int, max_delay_s: float) -> None:
        self.batch_size = batch_size
        self._max_delay_s = max_delay_s
        self._target = 1
        self._service = _Average()

    @property
    def service_s(self) -> float:
        return self._service.value

    @property
    def target(self) -> int:
        return self._target

    def arrived(self, outstanding: int, workers: int) -> None:
        self._target = max(self._target, min(outstanding, self.batch_size * max(1, workers)))

    def finished(self, service_s: float) -> None:
        self._service.add(service_s)

    def decide(self, situation: Situation) -> Decision:
        waiting, outstanding = situation.waiting, situation.waiting + situation.in_flight
        if waiting >= self.batch_size or outstanding >= self._target:
            return self._share(situation)
        expires_s = situation.oldest_arrival_s + self._max_delay_s
        pauses_s = max(situation.last_arrival_s, situation.free_since_s) + self.service_s / 4
        if situation.now_s >= pauses_s:
            # Those who were here before do not come back: expect only who is here.
            self._target = outstanding
            return self._share(situation)
        if situation.now_s >= expires_s:
            return self._share(situation)
        return WaitUntil(min(expires_s, pauses_s))

    def _share(self, situation: Situation) -> Send:
        """Devices work in parallel, so the jobs are spread over those that are free."""
        share = -(-situation.waiting // situation.free_devices)
        return Send(min(self.batch_size, share))


class FixedRule:
    """`batchingPolicy: fixed`: a batch goes when it is full or when its oldest member has waited the whole delay."""

    def __init__(self, batch_size: int, max_delay_s: float) -> None:
        self.batch_size = batch_size
        self._max_delay_s = max_delay_s
        self._service = _Average()

    @property
    def service_s(self) -> float:
        return self._service.value

    def arrived(self, outstanding: int, workers: int) -> None:
        pass

    def finished(self, service_s: float) -> None:
        self._service.add(service_s)

    def decide(self, situation: Situation) -> Decision:
        expires_s = situation.oldest_arrival_s + self._max_delay_s
        if situation.waiting >= self.batch_size or situation.now_s >= expires_s:
            return Send(min(self.batch_size, situation.waiting))
        return WaitUntil(expires_s)


class _Average:
    def __init__(self) -> None:
        self.value = 0.0

    def add(self, sample: float) -> None:
        self.value += (sample - self.value) * (_NEWEST_WEIGHT if self.value else 1.0)
