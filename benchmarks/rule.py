"""The batching rule beside two simpler ones, by simulation: no server, no load, the same figures every time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.results import Measurement
from benchmarks.scenarios import Repetition
from benchmarks.simulation import ImmediateRule, Simulation
from model_server.serving.batching import AdaptiveRule, BatchRule, FixedRule

_BATCH_SIZE, _DELAY_S = 16, 0.050
_SECONDS = 30
_POISSON_PER_S = 100
_CLIENTS = (1, 4, 16, 64)

_RULES: dict[str, Callable[[], BatchRule]] = {
    "adaptive": lambda: AdaptiveRule(_BATCH_SIZE, _DELAY_S),
    "whole delay": lambda: FixedRule(_BATCH_SIZE, _DELAY_S),
    "at once": lambda: ImmediateRule(_BATCH_SIZE),
}
# Which device each worker works on, by number.
_WORKERS: dict[str, Sequence[int]] = {
    "1 worker": (0,),
    "2 workers, one device": (0, 0),
    "2 workers, two devices": (0, 1),
    "4 workers, one device": (0, 0, 0, 0),
    "4 workers, four devices": (0, 1, 2, 3),
}


@dataclass(frozen=True, slots=True)
class RuleScenario:
    """All rules with one worker, then the adaptive one with workers that share a device and that do not."""

    name: str = "batch-rule"
    title: str = "The batching rule in a simulation: batch 16 / 50 ms, 8 + 0.2 n ms for n requests"
    headline: str = "requests_per_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        if repetition.number > 1:
            return
        for rule in _RULES:
            yield from self._under_loads(rule, "1 worker")
        for workers in list(_WORKERS)[1:]:
            yield from self._under_loads("adaptive", workers)

    def _under_loads(self, rule: str, workers: str) -> Iterator[Measurement]:
        for clients in _CLIENTS:
            simulation = _simulation(rule, workers)
            yield self._seen(simulation, rule, f"{workers}, c {clients}", simulation.closed_loop(clients, _SECONDS))
        simulation = _simulation(rule, workers)
        rate = simulation.open_loop(_POISSON_PER_S, _SECONDS)
        yield self._seen(simulation, rule, f"{workers}, {_POISSON_PER_S}/s at random", rate)

    def _seen(self, simulation: Simulation, rule: str, case: str, rate: float) -> Measurement:
        values = {"requests_per_s": rate, "p50_ms": simulation.p50_s * 1e3}
        return Measurement(self.name, rule, case, 1, values)


def _simulation(rule: str, workers: str) -> Simulation:
    return Simulation(_RULES[rule](), _WORKERS[workers])
