"""Stepping: who is in a step, what a step's results mean, and what ends a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from runner_harness import DEADLINE_S, RunnerInThread, batch, in_short

from handlers.context import Context
from model_server.wire.messages import STREAM_WINDOW_BYTES, Cancel, Message, Stop

StartRunner = Callable[..., RunnerInThread]


class Counter:
    """Counts each request to the number in its body, one part for each number.

    The state here is the count of each live request; as handlers of this kind do, it forgets requests it does not see.

    Attributes:
        steps: the ids that each call was about.
        before_step: what the test has happen before the step of that number.
    """

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.before_step: dict[int, Callable[[], object]] = {}
        self.counts: dict[str, list[int]] = {}

    def handle(self, data: list[Any], context: Context) -> list[Any]:
        assert context.request_ids is not None
        ids = list(context.request_ids.values())
        self.steps.append(ids)
        self.before_step.get(len(self.steps), lambda: None)()
        if context.get_request_header(0, "explain") == "True":
            return ["explained"]
        self.counts = {id: counts for id, counts in self.counts.items() if id in ids}
        for id, row in zip(ids, data, strict=True):
            if row:
                self.counts[id] = [0, int(row["body"])]
            self.counts[id][0] += 1
        context.stopping_criteria = self.criteria(ids)
        return [str(self.counts[id][0]) for id in ids]

    def criteria(self, ids: list[str]) -> Any:
        return [lambda _, state=self.counts[id]: state[0] >= state[1] for id in ids]


def said(running: RunnerInThread, answers: int) -> list[str]:
    """In short, all that comes until so many requests are answered."""
    return [line for _ in range(answers) for line in running.said()]


def test_a_request_is_stepped_until_its_criterion_says_stop(runner: StartRunner) -> None:
    counter = Counter()
    running = runner(counter.handle, "continuous")
    running.send(batch(1, "3"))
    assert running.said() == ["started 1", "1.0: 1", "1.0: 2", "1= 3"]
    assert counter.steps == [["1.0"]] * 3


def test_new_requests_join_between_steps_and_leave_when_they_are_done(runner: StartRunner) -> None:
    counter = Counter()
    running = runner(counter.handle, "continuous")
    counter.before_step = {1: lambda: send_and_wait(running, batch(2, "1"), batch(3, "2"))}
    running.send(batch(1, "3"))
    assert sorted(said(running, 3)) == sorted(
        ["started 1", "1.0: 1", "started 2", "started 3", "1.0: 2", "2= 1", "3.0: 1", "1= 3", "3= 2"]
    )
    assert counter.steps == [["1.0"], ["1.0", "2.0", "3.0"], ["1.0", "3.0"]]


def send_and_wait(running: RunnerInThread, *messages: Message) -> None:
    """Returns when the worker has read the messages: the next step is with them."""
    running.send(*messages)
    read_ahead = running.worker.inbox._messages
    assert read_ahead is not None
    give_up_s = time.monotonic() + DEADLINE_S
    while read_ahead.qsize() < len(messages):
        assert time.monotonic() < give_up_s


@pytest.mark.parametrize(
    ("verdict", "said_of_it"),
    [
        (True, ["started 1", "1= 1"]),
        (np.True_, ["started 1", "1= 1"]),
        (None, ["started 1", "1= 1"]),
        (False, ["started 1", "1.0: 1", "1= 2"]),
        (np.False_, ["started 1", "1.0: 1", "1= 2"]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("form", [list, lambda criteria: dict(enumerate(criteria))], ids=["list", "dict"])
def test_verdicts(verdict: Any, said_of_it: list[str], form: Any, runner: StartRunner) -> None:
    counter = Counter()
    counter.criteria = lambda ids: form([lambda result: verdict if result == "1" else True])  # type: ignore[method-assign]
    running = runner(counter.handle, "continuous")
    running.send(batch(1, "9"))
    assert running.said() == said_of_it


def test_without_criteria_a_result_is_the_whole_answer(runner: StartRunner) -> None:
    running = runner(lambda data, context: ["whole"] * len(data), "continuous")
    running.send(batch(1, ""))
    assert running.said() == ["started 1", "1= whole"]


@pytest.mark.parametrize(
    ("criteria", "second"),
    [
        ([lambda _: True], "503"),  # too short
        ({0: lambda _: True, 1: lambda result: result.nothing}, "503"),
        ({0: lambda _: True, 1: lambda _: exit(1)}, "500"),
    ],
    ids=["missing", "raises", "exits"],
)
def test_a_criterion_that_fails_ends_its_own_request_only(criteria: Any, second: str, runner: StartRunner) -> None:
    both_there = threading.Event()

    def handle(data: list[Any], context: Context) -> list[str]:
        assert both_there.wait(DEADLINE_S)
        context.stopping_criteria = criteria if len(data) == 2 else [lambda _: False]
        return ["x"] * len(data)

    running = runner(handle, "continuous")
    running.send(batch(1, ""))
    assert in_short(running.receive()) == "started 1"
    send_and_wait(running, batch(2, ""))
    both_there.set()
    assert sorted(said(running, 2)) == sorted(["1.0: x", "started 2", "1= x", f"2= {second}"])
    running.send(batch(3, ""), Cancel(3, 0))
    assert running.said()[0] == "started 3"


@pytest.mark.parametrize(
    ("outcome", "status"),
    [(ValueError("no"), "503"), (SystemExit(1), "500"), (["one"], "503"), ("not a list", "503")],
    ids=["raises", "exits", "too few", "no list"],
)
def test_a_step_that_fails_ends_those_in_it_and_no_others(outcome: Any, status: str, runner: StartRunner) -> None:
    both_there = threading.Event()

    def handle(data: list[Any], context: Context) -> Any:
        assert both_there.wait(DEADLINE_S)
        context.stopping_criteria = [lambda _: False] * len(data) if len(data) == 1 and data[0] else None
        if len(data) == 1:
            return ["x"]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    running = runner(handle, "continuous")
    running.send(batch(1, ""))
    assert in_short(running.receive()) == "started 1"
    send_and_wait(running, batch(2, ""))
    both_there.set()
    assert said(running, 2) == ["1.0: x", "started 2", f"1= {status}", f"2= {status}"]
    running.send(batch(3, ""))
    assert running.said()[:2] == ["started 3", "3.0: x"]


def test_the_handler_does_not_see_a_request_whose_client_is_gone(runner: StartRunner) -> None:
    counter = Counter()
    running = runner(counter.handle, "continuous")
    counter.before_step = {
        1: lambda: send_and_wait(running, batch(2, "9")),
        3: lambda: send_and_wait(running, Cancel(2, 0)),
    }
    running.send(batch(1, "5"))
    assert "2= 499" in said(running, 2)
    assert counter.steps == [["1.0"], ["1.0", "2.0"], ["1.0", "2.0"], ["1.0"], ["1.0"]]


def test_a_request_that_is_cancelled_before_its_first_step_is_never_shown(runner: StartRunner) -> None:
    counter = Counter()
    running = runner(counter.handle, "continuous")
    counter.before_step = {1: lambda: send_and_wait(running, batch(2, "9"), Cancel(2, 0))}
    running.send(batch(1, "3"))
    lines = said(running, 2)
    assert "2= 499" in lines and lines[-1] == "1= 3"
    assert counter.steps == [["1.0"]] * 3


def test_an_explanation_is_a_call_of_its_own_when_nothing_is_live(runner: StartRunner) -> None:
    """The handler takes requests that it does not see for gone and forgets them."""
    counter = Counter()
    running = runner(counter.handle, "continuous")
    explain = batch(2, "", kind="explain")
    explain.items[0].headers = [("explain", "True")]
    counter.before_step = {1: lambda: send_and_wait(running, explain, batch(3, "2"))}
    running.send(batch(1, "3"))
    assert said(running, 3) == [
        *["started 1", "1.0: 1", "1.0: 2", "1= 3"],
        *["started 2", "2= explained"],
        *["started 3", "3.0: 1", "3= 2"],
    ]
    assert counter.steps == [["1.0"]] * 3 + [["2.0"]] + [["3.0"]] * 2


def test_an_explanation_whose_client_is_gone_holds_nobody_up(runner: StartRunner) -> None:
    counter = Counter()
    running = runner(counter.handle, "continuous")
    explain = batch(2, "", kind="explain")
    counter.before_step = {1: lambda: send_and_wait(running, explain, batch(3, "1"), Cancel(2, 0))}
    running.send(batch(1, "3"))
    assert "2= 499" in said(running, 3)
    assert counter.steps == [["1.0"], ["1.0", "3.0"], ["1.0"]]


def test_stop_waits_for_what_is_live_and_for_what_waits(runner: StartRunner) -> None:
    counter = Counter()
    running = runner(counter.handle, "continuous")
    explain = batch(2, "", kind="explain")
    explain.items[0].headers = [("explain", "True")]
    counter.before_step = {1: lambda: send_and_wait(running, explain, Stop())}
    running.send(batch(1, "2"))
    assert said(running, 2) == ["started 1", "1.0: 1", "1= 2", "started 2", "2= explained"]
    assert running.ended() is None


def test_a_client_that_takes_nothing_holds_up_no_step(runner: StartRunner) -> None:
    part = "x" * STREAM_WINDOW_BYTES
    steps: list[str] = []

    def handle(data: list[Any], context: Context) -> list[str]:
        steps.append(part)
        context.stopping_criteria = [lambda _: len(steps) == 3]
        return [part]

    running = runner(handle, "continuous")
    running.send(batch(1, ""))
    assert running.said() == ["started 1", f"1.0: {part}", f"1.0: {part}", f"1= {part}"]


def test_the_end_of_the_frontend_is_noticed_between_steps(runner: StartRunner) -> None:
    running = runner(Counter().handle, "continuous")
    running.send(batch(1, str(10**9)))
    assert in_short(running.receive()) == "started 1"
    running.goes_away()
    assert running.ended() is None or isinstance(running.ended(), OSError)
