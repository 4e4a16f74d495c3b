"""The batching rule, by simulation: clients, one or more workers and a clock that only moves from event to event."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from model_server.serving.batching import AdaptiveRule, BatchRule, Decision, FixedRule, Send, Situation, WaitUntil

BATCH_SIZE, DELAY_S = 16, 0.050
# A client takes this long from an answer to its next request.
TURNAROUND_S = 0.0005


def gpu_like(batch: int) -> float:
    """Seconds for a batch: mostly fixed cost, as on a GPU."""
    return 0.008 + 0.0002 * batch


class ImmediateRule:
    """What a server without waiting does: whatever is there goes when a worker is free."""

    batch_size = BATCH_SIZE
    service_s = 0.0

    def arrived(self, outstanding: int, workers: int) -> None: ...

    def finished(self, service_s: float) -> None: ...

    def decide(self, situation: Situation) -> Decision:
        return Send(min(self.batch_size, situation.waiting))


@dataclass
class Simulation:
    rule: BatchRule
    workers: int = 1
    service: Callable[[int], float] = gpu_like
    now: float = 0.0
    latencies: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self.free: deque[float] = deque([0.0] * self.workers)
        self.in_flight = 0
        self.last_arrival = 0.0

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.order), action))

    def arrive(self, answered: Callable[[], None]) -> None:
        self.waiting.append((self.now, answered))
        self.last_arrival = self.now
        self.rule.arrived(len(self.waiting) + self.in_flight, self.workers)
        self.assign()

    def assign(self) -> None:
        while self.waiting and self.free:
            decision = self.rule.decide(
                Situation(
                    now_s=self.now,
                    waiting=len(self.waiting),
                    in_flight=self.in_flight,
                    oldest_arrival_s=self.waiting[0][0],
                    last_arrival_s=self.last_arrival,
                    free_since_s=self.free[0],
                    free_devices=len(self.free),
                )
            )
            if isinstance(decision, WaitUntil):
                self.at(decision.when_s, self.assign)
                return
            self.start([self.waiting.popleft() for _ in range(decision.size)])

    def start(self, batch: list[tuple[float, Callable[[], None]]]) -> None:
        self.free.popleft()
        self.in_flight += len(batch)
        self.batches.append(len(batch))
        took = self.service(len(batch))

        def finish() -> None:
            self.in_flight -= len(batch)
            self.free.append(self.now)
            self.rule.finished(took)
            for arrived, answered in batch:
                self.latencies.append(self.now - arrived)
                answered()
            self.assign()

        self.at(self.now + took, finish)

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, action = heapq.heappop(self.events)
            action()

    def closed_loop(self, clients: int, seconds: float) -> float:
        """Clients that wait for their answer before they ask again; returns requests per second."""

        def client() -> None:
            self.arrive(lambda: self.at(self.now + TURNAROUND_S, client))

        for number in range(clients):
            self.at(number * 1e-5, client)
        self.run(seconds)
        return len(self.latencies) / seconds

    def open_loop(self, per_second: float, seconds: float) -> list[float]:
        """Poisson arrivals; returns latencies, sorted."""
        clock, source = 0.0, random.Random(5)
        while (clock := clock + source.expovariate(per_second)) < seconds:
            self.at(clock, lambda: self.arrive(lambda: None))
        self.run(seconds + 1)
        return sorted(self.latencies)


def adaptive() -> AdaptiveRule:
    return AdaptiveRule(BATCH_SIZE, DELAY_S)


def fixed() -> FixedRule:
    return FixedRule(BATCH_SIZE, DELAY_S)


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def test_a_lone_client_never_waits_for_others() -> None:
    simulation = Simulation(adaptive())
    simulation.closed_loop(1, 5)
    assert median(simulation.latencies) == pytest.approx(gpu_like(1))
    waiting = Simulation(fixed())
    waiting.closed_loop(1, 5)
    assert median(waiting.latencies) == pytest.approx(gpu_like(1) + DELAY_S)


@pytest.mark.parametrize("clients", [2, 4, 8])
def test_few_clients_share_one_batch_without_the_full_delay(clients: int) -> None:
    throughput = Simulation(adaptive()).closed_loop(clients, 10)
    assert throughput > 5 * Simulation(fixed()).closed_loop(clients, 10)
    assert throughput > 1.2 * Simulation(ImmediateRule()).closed_loop(clients, 10)
    # Nobody can do better than all of them in every batch.
    assert throughput > 0.85 * clients / (gpu_like(clients) + TURNAROUND_S)


def test_as_many_clients_as_a_batch_holds_fill_it() -> None:
    simulation = Simulation(adaptive())
    throughput = simulation.closed_loop(BATCH_SIZE, 10)
    assert throughput > 1.3 * Simulation(ImmediateRule()).closed_loop(BATCH_SIZE, 10)
    assert throughput > 0.95 * Simulation(fixed()).closed_loop(BATCH_SIZE, 10)
    assert median([float(size) for size in simulation.batches]) == BATCH_SIZE


def test_random_arrivals_are_not_held_back() -> None:
    latencies = Simulation(adaptive()).open_loop(100, 20)
    patient = Simulation(fixed()).open_loop(100, 20)
    assert median(latencies) < 0.4 * median(patient)


def test_no_request_waits_longer_than_the_delay_while_a_worker_is_free() -> None:
    rule = AdaptiveRule(BATCH_SIZE, 0.004)
    rule.finished(1.0)  # a slow model: a quarter of its service time is far more than the delay
    rule.arrived(8, 1)
    situation = Situation(
        now_s=10.0, waiting=1, in_flight=0, oldest_arrival_s=9.999, last_arrival_s=9.999, free_since_s=9.0
    )
    assert rule.decide(situation) == WaitUntil(pytest.approx(10.003))


def test_expectation_falls_when_clients_leave() -> None:
    rule = adaptive()
    simulation = Simulation(rule)
    simulation.closed_loop(8, 2)
    assert rule.target == 8
    lone = Simulation(rule)
    lone.closed_loop(1, 2)
    assert rule.target == 1
    assert median(lone.latencies) == pytest.approx(gpu_like(1))


def test_jobs_are_shared_among_free_devices() -> None:
    rule = adaptive()
    situation = Situation(
        now_s=1.0,
        waiting=10,
        in_flight=0,
        oldest_arrival_s=1.0,
        last_arrival_s=1.0,
        free_since_s=0.0,
        free_devices=4,
    )
    assert rule.decide(situation) == Send(3)


def sequences() -> Iterator[tuple[str, BatchRule]]:
    yield "adaptive", AdaptiveRule(4, 0.01)
    yield "fixed", FixedRule(4, 0.01)


@pytest.mark.parametrize("name,rule", list(sequences()))
def test_bounds_hold_whatever_happens(name: str, rule: BatchRule) -> None:
    """Never more than the batch size, never an empty batch, and an end to every wait."""
    source = random.Random(11)
    now = 0.0
    for _ in range(5000):
        now += source.expovariate(200)
        waiting = source.randint(1, 9)
        oldest = now - source.random() * 0.02
        rule.arrived(waiting, 2)
        decision = rule.decide(Situation(now, waiting, source.randint(0, 8), oldest, now, now - 1, 1))
        if isinstance(decision, Send):
            assert 1 <= decision.size <= min(4, waiting), name
            rule.finished(source.random() * 0.05)
        else:
            assert now < decision.when_s <= oldest + 0.01, name


def test_fixed_waits_for_the_whole_delay_or_a_full_batch() -> None:
    rule = FixedRule(4, 5.0)
    partial = Situation(
        now_s=100.0, waiting=3, in_flight=0, oldest_arrival_s=99.0, last_arrival_s=99.9, free_since_s=90.0
    )
    assert rule.decide(partial) == WaitUntil(104.0)
    full = Situation(now_s=100.0, waiting=4, in_flight=0, oldest_arrival_s=99.0, last_arrival_s=99.9, free_since_s=90.0)
    assert rule.decide(full) == Send(4)
