"""The batching rule, by simulation, and by single questions to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from statistics import median

import pytest

from benchmarks.simulation import TURNAROUND_S, ImmediateRule, Simulation, gpu_like
from model_server.serving.batching import AdaptiveRule, BatchRule, FixedRule, Send, Situation, WaitUntil

BATCH_SIZE, DELAY_S = 16, 0.050


def adaptive() -> AdaptiveRule:
    return AdaptiveRule(BATCH_SIZE, DELAY_S)


def fixed() -> FixedRule:
    return FixedRule(BATCH_SIZE, DELAY_S)


def immediate() -> ImmediateRule:
    return ImmediateRule(BATCH_SIZE)


# The figures that the rule was chosen for: batch 16 / 50 ms, one worker, 8 ms and 0.2 ms more for each request.
@pytest.mark.parametrize(
    "rule,clients,per_second",
    [
        (adaptive, 4, 405),
        (fixed, 4, 68),
        (immediate, 4, 238),
        (adaptive, 16, 1239),
        (fixed, 16, 1238),
        (immediate, 16, 833),
    ],
)
def test_throughput_is_what_the_rule_was_chosen_for(
    rule: Callable[[], BatchRule], clients: int, per_second: int
) -> None:
    assert Simulation(rule()).closed_loop(clients, 30) == pytest.approx(per_second, rel=0.1)


@pytest.mark.parametrize("rule,p50_ms", [(adaptive, 11), (fixed, 40)])
def test_random_arrivals_wait_as_long_as_the_rule_was_chosen_for(rule: Callable[[], BatchRule], p50_ms: float) -> None:
    simulation = Simulation(rule())
    simulation.open_loop(100, 60)
    assert simulation.p50_s * 1e3 == pytest.approx(p50_ms, rel=0.1)


def test_batches_on_one_device_share_its_speed() -> None:
    """Two workers that send whatever there is: two single requests at a time take twice as long as one."""
    shared, own = Simulation(immediate(), (0, 0)), Simulation(immediate(), (0, 1))
    shared.closed_loop(2, 10)
    own.closed_loop(2, 10)
    assert shared.p50_s == pytest.approx(2 * own.p50_s, rel=0.02)
    assert own.p50_s == pytest.approx(gpu_like(1))


def test_workers_that_share_a_device_are_not_given_halves_of_a_batch() -> None:
    alone, shared, own = (Simulation(adaptive(), workers) for workers in ((0,), (0, 0), (0, 1)))
    rates = [simulation.closed_loop(BATCH_SIZE, 10) for simulation in (alone, shared, own)]
    assert rates[1] == pytest.approx(rates[0], rel=0.01)
    assert rates[2] > 1.1 * rates[0]
    assert (median(shared.batches), median(own.batches)) == (BATCH_SIZE, BATCH_SIZE / 2)


def test_a_lone_client_never_waits_for_others() -> None:
    simulation = Simulation(adaptive())
    simulation.closed_loop(1, 5)
    assert simulation.p50_s == pytest.approx(gpu_like(1))
    waiting = Simulation(fixed())
    waiting.closed_loop(1, 5)
    assert waiting.p50_s == pytest.approx(gpu_like(1) + DELAY_S)


@pytest.mark.parametrize("clients", [2, 4, 8])
def test_few_clients_share_one_batch_without_the_full_delay(clients: int) -> None:
    throughput = Simulation(adaptive()).closed_loop(clients, 10)
    assert throughput > 5 * Simulation(fixed()).closed_loop(clients, 10)
    assert throughput > 1.2 * Simulation(immediate()).closed_loop(clients, 10)
    # Nobody can do better than all of them in every batch.
    assert throughput > 0.85 * clients / (gpu_like(clients) + TURNAROUND_S)


def test_as_many_clients_as_a_batch_holds_fill_it() -> None:
    simulation = Simulation(adaptive())
    throughput = simulation.closed_loop(BATCH_SIZE, 10)
    assert throughput > 1.3 * Simulation(immediate()).closed_loop(BATCH_SIZE, 10)
    assert throughput > 0.95 * Simulation(fixed()).closed_loop(BATCH_SIZE, 10)
    assert median(simulation.batches) == BATCH_SIZE


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
    assert lone.p50_s == pytest.approx(gpu_like(1))


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
