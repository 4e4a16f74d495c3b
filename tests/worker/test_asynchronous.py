"""Requests side by side in a coroutine: each with its own answer, errors, context and end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from runner_harness import DEADLINE_S, RunnerInThread, batch, in_short

from handlers.context import Context
from handlers.errors import PredictionException
from handlers.streaming import send_intermediate_predict_response
from model_server.wire.messages import Cancel, Stop

StartRunner = Callable[..., RunnerInThread]


class Together:
    """Nobody gets on before all are there; then each does what its body says.

    Attributes:
        seen: what became of requests that were cancelled.
        is_waiting: one of them does. Before that, `asyncio.wait_for` of Python 3.11 may swallow a cancellation.
    """

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.seen: list[str] = []
        self.is_waiting = threading.Event()
        self._present = 0
        self._complete: asyncio.Event | None = None

    async def handle(self, data: list[Any], context: Context) -> Any:
        self._complete = self._complete or asyncio.Event()
        self._present += 1
        if self._present >= self.number:
            self._complete.set()
        await asyncio.wait_for(self._complete.wait(), DEADLINE_S)
        return await self.obey(data[0]["body"], context)

    async def obey(self, order: str, context: Context) -> Any:
        match order:
            case "raise":
                raise ValueError("no")
            case "refuse":
                raise PredictionException("not this", 422)
            case "exit":
                raise SystemExit(1)
            case "cancel":
                raise asyncio.CancelledError
            case "no list":
                return "text"
            case "stream":
                for part in ("a", "b"):
                    send_intermediate_predict_response([part], context.request_ids or {}, "", 200, context)
                    await asyncio.sleep(0)
            case "wait":
                try:
                    self.is_waiting.set()
                    await asyncio.sleep(DEADLINE_S)
                except asyncio.CancelledError:
                    self.seen.append(context.get_request_id() or "")
                    raise
        context.set_response_header(0, "x-id", str(context.get_request_id()))
        await asyncio.sleep(0)
        return [f"{context.get_request_id()} {context.get_response_headers(0)['x-id']}"]


def test_all_are_in_the_handler_at_once_each_with_its_own_context(runner: StartRunner) -> None:
    running = runner(Together(5).handle, "async")
    running.send(*(batch(number, "") for number in range(1, 6)))
    lines = [line for _ in range(5) for line in running.said()]
    started, answered = lines[:5], lines[5:]
    assert started == [f"started {number}" for number in range(1, 6)]
    assert sorted(answered) == [f"{number}= {number}.0 {number}.0" for number in range(1, 6)]


def test_what_a_handler_keeps_on_its_context_all_share(runner: StartRunner) -> None:
    async def handle(data: list[Any], context: Any) -> list[str]:
        context.cache.append(data[0]["body"])
        return ["".join(context.cache)]

    running = runner(handle, "async")
    running.context.cache = []  # type: ignore[attr-defined]
    for number, text in enumerate("ab"):
        running.send(batch(number, text))
        running.said()
    assert running.context.cache == ["a", "b"]  # type: ignore[attr-defined]
    assert running.context.request_ids is None


@pytest.mark.parametrize(
    ("order", "status"), [("raise", 503), ("refuse", 422), ("exit", 500), ("cancel", 503), ("no list", 503)]
)
def test_an_error_stays_with_its_request(order: str, status: int, runner: StartRunner) -> None:
    running = runner(Together(2).handle, "async")
    running.send(batch(1, order), batch(2, ""))
    lines = [line for _ in range(2) for line in running.said()]
    assert sorted(lines[2:]) == [f"1= {status}", "2= 2.0 2.0"]


def test_parts_of_different_requests_do_not_mix(runner: StartRunner) -> None:
    running = runner(Together(2).handle, "async")
    running.send(batch(1, "stream"), batch(2, "stream"))
    lines = [line for _ in range(2) for line in running.said()]
    for number in (1, 2):
        own = [line for line in lines if line.startswith((f"{number}.", f"{number}="))]
        assert own == [f"{number}.0: a", f"{number}.0: b", f"{number}= {number}.0 {number}.0"]


def test_the_task_of_a_client_that_is_gone_is_cancelled(runner: StartRunner) -> None:
    together = Together(2)
    running = runner(together.handle, "async")
    running.send(batch(1, "wait"), batch(2, ""))
    assert sorted(running.said()) == ["2= 2.0 2.0", "started 1", "started 2"]
    assert together.is_waiting.wait(DEADLINE_S)
    running.send(Cancel(1, 0), Cancel(2, 0))  # the second one is answered already
    assert running.said() == ["1= 499"]
    assert together.seen == ["1.0"]


def test_stop_waits_for_every_request(runner: StartRunner) -> None:
    running = runner(Together(2).handle, "async")
    running.send(batch(1, "stream"), batch(2, ""), Stop())
    lines = [line for _ in range(2) for line in running.said()]
    assert sorted(line for line in lines if "=" in line) == ["1= 1.0 1.0", "2= 2.0 2.0"]
    assert running.ended() is None


def test_the_end_of_the_frontend_ends_every_request(runner: StartRunner) -> None:
    together = Together()
    running = runner(together.handle, "async")
    running.send(batch(1, "wait"))
    assert in_short(running.receive()) == "started 1"
    assert together.is_waiting.wait(DEADLINE_S)
    running.goes_away()
    assert running.ended() is None
    assert together.seen == ["1.0"]


def test_a_plain_function_is_called_too(runner: StartRunner) -> None:
    running = runner(lambda data, context: ["plain"], "async")
    running.send(batch(1, ""))
    assert running.said() == ["started 1", "1= plain"]
