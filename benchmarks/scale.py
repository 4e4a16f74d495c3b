"""What grows with the number of models and of connections of this server: latency for the others, memory, time."""

import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from benchmarks.errors import BenchmarkError
from benchmarks.modelserver import MODEL_NAME, ManagedServer, ModelServer
from benchmarks.results import Measurement
from benchmarks.scenarios import Case, Repetition, memory_at_rest, under_load
from benchmarks.servers import Deployment
from benchmarks.workloads import echo, examples

_MODELS = 1_000
_CONNECTIONS = 10_000
_FEW = 10
_SECONDS = 5
_ALONE = Case("c 1", 1, echo())
_ANSWER_TIMEOUT_S = 60
# Descriptors that this process needs besides those of the connections.
_SPARE_DESCRIPTORS = 200


@dataclass(frozen=True, slots=True)
class ModelsScenario:
    """One model that is asked, then many more that have no workers."""

    name: str = "scale-models"
    title: str = f"Echo at concurrency 1, alone and beside {_MODELS - 1:,} models without workers"
    headline: str = "p50_ms"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        models = _MODELS // 10 if repetition.seconds == 1 else _MODELS
        with ModelServer().managed(Deployment("echo"), repetition.assets) as server:
            server.asked.verify(examples(_ALONE.workload, repetition.assets))
            yield self._look(server, repetition, 1, {})
            registered_ms = _register(server, models - 1)
            yield self._look(server, repetition, models, {"registered_ms": registered_ms})

    def _look(
        self, server: ManagedServer, repetition: Repetition, models: int, values: dict[str, float]
    ) -> Measurement:
        values = values | _load(server, repetition)
        values["scrape_ms"] = _timed_ms(server.scrape)
        values["list_ms"] = _timed_ms(server.list_models)
        return Measurement(self.name, ModelServer.name, f"models: {models:,}", repetition.number, values)


def _register(server: ManagedServer, models: int) -> float:
    """Milliseconds for each of the last ones: that is where it shows when each costs more than the one before."""
    archive = f"{MODEL_NAME}.mar"
    times_ms = [_timed_ms(partial(server.register, archive, f"idle-{number}")) for number in range(models)]
    return sum(times_ms[-_FEW:]) / _FEW


def _timed_ms(call: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    call()
    return (time.perf_counter() - began_s) * 1e3


def _load(server: ManagedServer, repetition: Repetition) -> dict[str, float]:
    bodies = repetition.assets.folder / "bodies"
    seen = under_load(server.asked, _ALONE, bodies, repetition.seconds or _SECONDS)
    return seen | memory_at_rest(server.asked)


@dataclass(frozen=True, slots=True)
class ConnectionsScenario:
    """Connections that have asked once and stay open, beside one that goes on asking."""

    name: str = "scale-connections"
    title: str = f"Echo at concurrency 1, alone and beside {_CONNECTIONS:,} idle connections"
    headline: str = "p50_ms"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        connections = _CONNECTIONS // 10 if repetition.seconds == 1 else _CONNECTIONS
        _allow_descriptors(connections + _SPARE_DESCRIPTORS)
        with ModelServer().managed(Deployment("echo"), repetition.assets) as server, ExitStack() as idle:
            server.asked.verify(examples(_ALONE.workload, repetition.assets))
            yield self._look(server, repetition, 0)
            for _ in range(connections):
                idle.enter_context(_idle_connection(server.asked.url))
            yield self._look(server, repetition, connections)

    def _look(self, server: ManagedServer, repetition: Repetition, connections: int) -> Measurement:
        values = _load(server, repetition)
        return Measurement(self.name, ModelServer.name, f"idle: {connections:,}", repetition.number, values)


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchmarkError(f"{count:,} connections need as many descriptors; ulimit -Hn allows {hard:,}.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def _idle_connection(url: str) -> socket.socket:
    """A connection that has asked once, for what needs no token, and been answered."""
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=_ANSWER_TIMEOUT_S)
    connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        raise BenchmarkError(f"{url} did not answer on one of many connections.")
    return connection
