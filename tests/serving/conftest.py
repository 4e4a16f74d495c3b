"""Event loops to run tests on: with virtual time, and both kinds that exist."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest
import serving_fakes
import uvloop
from serving_fakes import DEADLINE_S, FakeReplica, Run, VirtualTimeLoop

from model_server.serving import link, model, queue, sequences


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a coroutine on a loop whose clock jumps from timer to timer, and is the only clock."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        clock = SimpleNamespace(monotonic=runner.get_loop().time)
        for module in (queue, sequences, link, model, serving_fakes):
            monkeypatch.setattr(module, "time", clock)
        yield runner.run


@pytest.fixture(params=["asyncio", "uvloop"])
def real_time(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on either kind of event loop, and not for ever."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        yield lambda main: runner.run(asyncio.wait_for(main, DEADLINE_S))


@pytest.fixture
def fake_replicas(monkeypatch: pytest.MonkeyPatch) -> list[FakeReplica]:
    """Models make these instead of real worker slots."""
    monkeypatch.setattr(model, "Replica", FakeReplica)
    monkeypatch.setattr(FakeReplica, "made", [])
    monkeypatch.setattr(FakeReplica, "stops_at_once", True)
    return FakeReplica.made


@pytest.fixture
def no_process_left() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    left = set(psutil.Process().children(recursive=True)) - before
    for process in left:
        process.kill()
    assert not left
