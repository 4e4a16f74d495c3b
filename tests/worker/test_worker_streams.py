"""Parts of answers on the worker's side: whom they reach, when the handler waits, and when it is told to stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from runner_harness import DEADLINE_S, RunnerInThread, batch, in_short

from handlers.context import Context
from handlers.errors import RequestCancelled
from handlers.streaming import send_intermediate_predict_response
from model_server.wire.messages import STREAM_WINDOW_BYTES, Cancel, Chunk, Credit, Result, Stop
from model_server.worker import streams as streams_module
from model_server.worker.streams import Streams

StartRunner = Callable[..., RunnerInThread]
WINDOW = STREAM_WINDOW_BYTES


def sends_parts(data: list[Any], context: Context) -> list[str]:
    """Sends the words of every body, one part each, and returns `end`."""
    sentences = [row["body"].split() for row in data]
    for words in zip(*sentences, strict=True):
        send(words, context)
    return ["end"] * len(data)


def send(parts: Any, context: Context, ids: Any = None) -> None:
    send_intermediate_predict_response(parts, ids or context.request_ids or {}, "", 200, context)


# --- the window ---


class Waits:
    """In place of a condition: whoever waits makes the next thing happen that the test has planned."""

    def __init__(self, *events: Callable[[], None]) -> None:
        self.events = list(events)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def notify_all(self) -> None: ...

    def wait(self) -> None:
        assert self.events, "nothing would end this wait"
        self.events.pop(0)()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()
    monkeypatch.setattr(streams_module, "threading", SimpleNamespace(Condition=lambda: waits))
    return waits


def test_a_part_waits_while_the_window_is_full_and_no_longer(waits: Waits) -> None:
    streams = Streams()
    streams.open(1)
    assert streams.begin(1, 0, WINDOW - 1, wait=True)
    assert streams.begin(1, 0, 10, wait=True)  # the window had room for one byte
    waits.events = [lambda: streams.credit(Credit(1, 0, 9)), lambda: streams.credit(Credit(1, 0, 1))]
    assert streams.begin(1, 0, 1, wait=True)
    assert waits.events == []


def test_every_client_has_a_window_of_its_own(waits: Waits) -> None:
    streams = Streams()
    streams.open(1)
    streams.open(2)
    for batch_id, index in ((1, 0), (1, 1), (2, 0)):
        assert streams.begin(batch_id, index, WINDOW, wait=True)
    waits.events = [lambda: streams.credit(Credit(2, 0, WINDOW)), lambda: streams.credit(Credit(1, 1, WINDOW))]
    assert streams.begin(1, 1, 1, wait=True)
    assert waits.events == []


def test_small_parts_take_a_share_of_the_window_that_is_larger_than_they_are(waits: Waits, runner: StartRunner) -> None:
    running = runner(sends_parts)
    waits.events = [lambda: running.streams.credit(Credit(1, 0, WINDOW))]
    running.send(batch(1, "x " * 128))
    assert len(running.said()) == 128 + 1 and len(waits.events) == 1
    running.send(batch(2, "x " * 129))
    waits.events = [lambda: running.streams.credit(Credit(2, 0, WINDOW))]
    assert len(running.said()) == 129 + 1 and waits.events == []


def test_who_serves_many_at_once_waits_for_nobody(waits: Waits) -> None:
    streams = Streams()
    streams.open(1)
    assert streams.begin(1, 0, 10 * WINDOW, wait=False)
    assert streams.begin(1, 0, 1, wait=False)


@pytest.mark.parametrize(
    "end",
    [
        lambda streams: streams.cancel(Cancel(1, 0)),
        lambda streams: streams.close(1),
        lambda streams: streams.end(),
    ],
    ids=["client gone", "batch answered", "frontend gone"],
)
def test_the_wait_ends_with_what_it_is_for(end: Callable[[Streams], None], waits: Waits) -> None:
    streams = Streams()
    streams.open(1)
    streams.begin(1, 0, WINDOW, wait=True)
    waits.events = [lambda: end(streams)]
    assert not streams.begin(1, 0, 1, wait=True)
    assert streams.is_cancelled(1, 0)


def test_what_is_said_about_a_batch_that_is_over_means_nothing() -> None:
    streams = Streams()
    streams.open(1)
    streams.close(1)
    streams.cancel(Cancel(1, 0))
    streams.credit(Credit(1, 0, 5))
    streams.open(1)
    assert not streams.is_cancelled(1, 0)


@pytest.mark.parametrize("end", [lambda streams: streams.close(1), lambda streams: streams.end()])
def test_a_thread_that_waits_is_woken(end: Callable[[Streams], None]) -> None:
    streams = Streams()
    streams.open(1)
    streams.begin(1, 0, WINDOW, wait=True)
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(streams.begin(1, 0, 1, wait=True)), daemon=True)
    thread.start()
    end(streams)
    thread.join(DEADLINE_S)
    assert outcome == [False]


# --- on the wire ---


def test_parts_come_before_the_answer_in_order(runner: StartRunner) -> None:
    running = runner(sends_parts)
    running.send(batch(1, "a b"))
    assert running.said() == ["1.0: a", "1.0: b", "1= end"]


def test_each_member_of_a_batch_gets_its_own_parts(runner: StartRunner) -> None:
    running = runner(sends_parts)
    running.send(batch(1, "a b", "c d"))
    assert running.said() == ["1.0: a", "1.1: c", "1.0: b", "1.1: d", "1= end end"]


def test_parts_for_some_of_the_batch(runner: StartRunner) -> None:
    def handle(data: list[Any], context: Context) -> list[str]:
        send({1: "only"}, context, {1: context.get_request_id(1)})
        return ["end"] * 2

    running = runner(handle)
    running.send(batch(1, "", ""))
    assert running.said() == ["1.1: only", "1= end end"]


def test_status_and_headers_go_with_a_part(runner: StartRunner) -> None:
    def handle(data: list[Any], context: Context) -> list[str]:
        context.set_response_status(207, "Many", 0)
        context.set_response_header(0, "x-a", "1")
        send(["part"], context)
        return ["end"]

    running = runner(handle)
    running.send(batch(1, ""))
    assert running.receive() == Chunk(1, 0, 207, "Many", [("x-a", "1"), ("ts_stream_next", "true")], b"part")


def test_a_part_that_cannot_be_sent_is_an_error_of_the_request(runner: StartRunner) -> None:
    running = runner(sends_parts, max_response_size_bytes=3)
    running.send(batch(1, "abc abcd"))
    assert running.said() == ["1.0: abc", "1= 500"]


def test_a_batch_that_fails_is_not_repeated_for_those_who_have_a_part(runner: StartRunner) -> None:
    calls = []

    def handle(data: list[Any], context: Context) -> list[str]:
        calls.append([row["body"] for row in data])
        if len(data) == 1:
            return ["whole"]
        send({0: "part"}, context, {0: context.get_request_id(0)})
        raise ValueError

    running = runner(handle)
    running.send(batch(1, "a", "b"))
    assert running.said() == ["1.0: part", "1= 503 whole"]
    assert calls == [["a", "b"], ["b"]]


# --- clients that go away ---


def test_a_handler_is_stopped_when_all_its_clients_are_gone_and_not_before(runner: StartRunner) -> None:
    heard = threading.Semaphore(0)
    stopped: list[RequestCancelled] = []

    def cancel(index: int) -> None:
        running.send(Cancel(1, index))
        assert heard.acquire(timeout=DEADLINE_S)

    def handle(data: list[Any], context: Context) -> list[str]:
        send(["0", "1"], context)
        cancel(0)
        send(["lost", "still there"], context)
        cancel(1)
        try:
            send(["lost", "lost"], context)
        except RequestCancelled as error:
            stopped.append(error)
            raise
        return ["end", "end"]

    def take_note(message: Cancel) -> None:
        cancelled(message)
        heard.release()

    running = runner(handle)
    cancelled = running.streams.cancel
    running.streams.cancel = take_note  # type: ignore[method-assign]
    running.send(batch(1, "", ""))
    assert running.said() == ["1.0: 0", "1.1: 1", "1.1: still there", "1= 499 499"]
    assert len(stopped) == 1


def test_a_handler_is_stopped_when_the_frontend_is_gone(runner: StartRunner) -> None:
    def handle(data: list[Any], context: Context) -> list[str]:
        while True:
            send(["part"], context)

    running = runner(handle)
    running.send(batch(1, ""))
    assert in_short(running.receive()) == "1.0: part"
    running.goes_away()
    assert isinstance(running.ended(), OSError)


# --- threads that a handler leaves behind ---


class LeavesThreadBehind:
    """A handler whose first batch leaves a thread behind, which sends a part when it is told to."""

    def __init__(self) -> None:
        self.may_send = threading.Event()
        self.outcome: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def handle(self, data: list[Any], context: Context) -> list[str]:
        if data[0]["body"] == "leave":
            threading.Thread(target=self._send_late, args=(context, context.request_ids), daemon=True).start()
        else:
            self.send_now()
        return ["end"]

    def send_now(self) -> None:
        self.may_send.set()
        assert isinstance(self.outcome.get(timeout=DEADLINE_S), RequestCancelled)

    def _send_late(self, context: Context, ids: Any) -> None:
        self.may_send.wait(DEADLINE_S)
        try:
            send(["late"], context, ids)
        except BaseException as error:
            self.outcome.put(error)
        else:
            self.outcome.put(None)


def test_a_late_part_ends_its_thread_and_disturbs_nothing(runner: StartRunner) -> None:
    handler = LeavesThreadBehind()
    running = runner(handler.handle)
    running.send(batch(1, "leave"))
    assert running.said() == ["1= end"]
    handler.send_now()
    handler.outcome.put(RequestCancelled())  # the second batch has nothing to wait for
    running.send(batch(2, "next"))
    assert running.said() == ["2= end"]


def test_a_late_part_does_not_reach_the_client_of_the_next_batch(runner: StartRunner) -> None:
    handler = LeavesThreadBehind()
    running = runner(handler.handle)
    running.send(batch(1, "leave"), batch(2, "next"))
    assert [*running.said(), *running.said()] == ["1= end", "2= end"]


def test_a_part_that_loses_the_race_with_its_answer_is_not_sent(runner: StartRunner) -> None:
    """The frontend takes parts of batches that it does not know for a broken worker."""
    running = runner(lambda data, context: ["end"])
    running.send(batch(1, ""))
    assert running.said() == ["1= end"]
    running.worker.outbox.part(Chunk(1, 0, 200, "", [], b"late"))
    running.send(batch(2, ""))
    assert running.said() == ["2= end"]


def test_no_second_reader_while_the_runner_reads(runner: StartRunner) -> None:
    """Between batches, a thread that a handler has left behind asks for one."""
    running = runner(lambda data, context: ["end"])
    first, second = batch(1, ""), batch(2, "")
    running.send(first)
    assert running.said() == ["1= end"]
    before = threading.enumerate()
    thread = threading.Thread(target=running.worker.inbox.listen, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()  # it does not wait for a message that may never come
    running.send(second, batch(3, ""))
    assert [*running.said(), *running.said()] == ["2= end", "3= end"]
    assert "inbox" in [other.name for other in threading.enumerate() if other not in before]


def test_a_thread_that_waits_for_its_client_ends_with_the_batch(runner: StartRunner) -> None:
    full = threading.Event()
    outcome: list[RequestCancelled] = []

    def stream(context: Context) -> None:
        send([b"x" * WINDOW], context)
        full.set()
        try:
            send(["more"], context)
        except RequestCancelled as error:
            outcome.append(error)

    def handle(data: list[Any], context: Context) -> list[str]:
        threads.append(threading.Thread(target=stream, args=(context,), daemon=True))
        threads[0].start()
        assert full.wait(DEADLINE_S)
        return ["end"]

    threads: list[threading.Thread] = []
    running = runner(handle)
    running.send(batch(1, ""))
    kinds = [type(running.receive()) for _ in range(2)]
    assert kinds == [Chunk, Result]
    threads[0].join(DEADLINE_S)
    assert len(outcome) == 1


def test_what_was_sent_before_stop_is_finished_while_messages_are_read_ahead(runner: StartRunner) -> None:
    running = runner(sends_parts)
    running.send(batch(1, "a"), batch(2, "b"), Stop(), batch(3, "c"))
    assert [*running.said(), *running.said()] == ["1.0: a", "1= end", "2.0: b", "2= end"]
    assert running.ended() is None


def test_streaming_needs_the_context_of_a_call() -> None:
    with pytest.raises(ValueError, match="needs the context"):
        send_intermediate_predict_response(["x"], {0: "id"}, "", 200)
