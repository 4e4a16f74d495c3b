"""What the handler is given, and what becomes of what it returns or raises."""

import io
import logging
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from runner_harness import RunnerInThread, batch
from servers import eventually

from handlers.context import Context
from handlers.errors import PredictionException
from handlers.metrics import MetricSample, MetricsRecorder
from model_server.wire.messages import ItemResult, Load, Part, Predict, PredictItem
from model_server.worker.calls import Worker
from model_server.worker.connection import Connection
from model_server.worker.entry_point import EntryPoint
from model_server.worker.inbox import Inbox
from model_server.worker.outbox import Outbox
from model_server.worker.recorder import Recorder
from model_server.worker.runner import BatchRunner
from model_server.worker.streams import Streams

Handle = Callable[[list[Any], Context], Any]


class Nowhere:
    """A socket for runners that nobody listens to."""

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO()

    def sendall(self, data: bytes) -> None:
        pass


def runner_of(handle: Handle, tmp_path: Path, **load: Any) -> BatchRunner:
    samples: list[MetricSample] = []
    context = Context("m", tmp_path, None, 8, None, "1.0", metrics=MetricsRecorder("m", samples.append))
    entry = EntryPoint(lambda context: None, handle, handle)
    connection, streams = Connection(cast(socket.socket, Nowhere())), Streams()
    inbox, outbox = Inbox(connection, streams), Outbox(connection, streams, Recorder("m"))
    load_message = Load("m", str(tmp_path), "handler", 8, **load)
    return BatchRunner(Worker(entry, context, load_message, inbox, outbox, streams))


def item(id: str, *parts: Part, headers: list[tuple[str, str]] | None = None) -> PredictItem:
    return PredictItem(id, headers or [], list(parts))


def texts(*words: str) -> list[PredictItem]:
    return [item(word, Part("body", word.encode(), "text/plain")) for word in words]


def run(handle: Handle, items: list[PredictItem], tmp_path: Path, **load: Any) -> list[ItemResult]:
    answers = runner_of(handle, tmp_path, **load).run(Predict(7, "predict", items))
    assert [answer.id for answer in answers] == [item.id for item in items]
    return answers


def rows_seen_by_handler(items: list[PredictItem], tmp_path: Path, **load: Any) -> list[Any]:
    seen: list[Any] = []

    def handle(data: list[Any], context: Context) -> list[str]:
        seen.extend(data)
        return [""] * len(data)

    run(handle, items, tmp_path, **load)
    return seen


# --- data (TorchServe's table of parameter values) ---


@pytest.mark.parametrize(
    ("data", "content_type", "value"),
    [
        (b'{"a": [1]}', "application/json", {"a": [1]}),
        (b'"text"', "application/json", "text"),
        (b"null", "application/json", None),
        (b"1", "application/json; charset=utf-8", 1),
        (b"1", "application/json;charset=utf-8", 1),
        (b"1", "Application/JSON", bytearray(b"1")),
        (b"1", "application/jsonl", bytearray(b"1")),
        (b"{", "application/json", bytearray(b"{")),
        (b"", "application/json", bytearray()),
        (b"\xff", "application/json", bytearray(b"\xff")),
        (b"[" * 100_000, "application/json", bytearray(b"[" * 100_000)),
        ("Grüße".encode(), "text/plain", "Grüße"),
        ("Grüße".encode(), "text/html; charset=utf-8", "Grüße"),
        (b"", "text/plain", ""),
        (b"\xff", "text/plain", bytearray(b"\xff")),
        (b"text", "", bytearray(b"text")),
        (b"text", "application/octet-stream", bytearray(b"text")),
        (b"text", "image/png", bytearray(b"text")),
    ],
)
def test_body_is_decoded_by_its_content_type(data: bytes, content_type: str, value: Any, tmp_path: Path) -> None:
    (row,) = rows_seen_by_handler([item("a", Part("body", data, content_type))], tmp_path)
    assert row == {"body": value}
    assert type(row["body"]) is type(value)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_nothing_is_decoded_when_the_server_says_so(content_type: str, tmp_path: Path) -> None:
    (row,) = rows_seen_by_handler([item("a", Part("body", b"1", content_type))], tmp_path, decode_input_request=False)
    assert row == {"body": bytearray(b"1")}
    assert type(row["body"]) is bytearray


def test_the_last_part_of_a_name_counts(tmp_path: Path) -> None:
    parts = [Part("data", b"1"), Part("data", b"2"), Part("other", b"3")]
    (row,) = rows_seen_by_handler([item("a", *parts)], tmp_path)
    assert row == {"data": bytearray(b"2"), "other": bytearray(b"3")}


def test_a_request_without_parts_is_an_empty_row(tmp_path: Path) -> None:
    assert rows_seen_by_handler([item("a"), *texts("b")], tmp_path) == [{}, {"body": "b"}]


# --- context ---


def test_headers_are_the_parts_and_then_the_clients_spelling(tmp_path: Path) -> None:
    seen = []

    def handle(data: list[Any], context: Context) -> list[str]:
        seen.append((context.get_all_request_header(0), context.get_request_header(1, "X-Mine")))
        return ["", ""]

    headers = [("X-Mine", "1"), ("x-mine", "2"), ("X-Mine", "3"), ("file", "header wins")]
    first = item("a", Part("body", b"", "text/plain"), Part("file", b""), headers=headers)
    run(handle, [first, item("b", headers=[("x-mine", "no")])], tmp_path)
    everything = {"body": {"content-type": "text/plain"}, "file": "header wins", "X-Mine": "3", "x-mine": "2"}
    assert seen == [(everything, None)]


def test_answers_carry_what_was_set_for_their_index(tmp_path: Path) -> None:
    def handle(data: list[Any], context: Context) -> list[str]:
        context.set_response_status(201, "Made", idx=1)
        context.set_response_header(1, "X-A", "b")
        context.set_response_content_type(0, "text/plain")
        return ["a", "b"]

    assert run(handle, texts("a", "b"), tmp_path) == [
        ItemResult("a", 200, "", [("content-type", "text/plain")], b"a"),
        ItemResult("b", 201, "Made", [("X-A", "b")], b"b"),
    ]


def test_each_batch_has_its_own_ids_and_processors(tmp_path: Path) -> None:
    seen = []

    def handle(data: list[Any], context: Context) -> list[str]:
        assert context.metrics.request_ids == context.request_ids
        seen.append((context.request_ids, context.get_response_status(0)))
        context.set_all_response_status(202)
        return [""] * len(data)

    runner = runner_of(handle, tmp_path)
    runner.run(Predict(1, "predict", texts("a", "b")))
    runner.run(Predict(2, "predict", texts("c")))
    assert seen == [({0: "a", 1: "b"}, (200, None)), ({0: "c"}, (200, None))]


def test_attributes_hung_on_the_context_stay(tmp_path: Path) -> None:
    def handle(data: list[Any], context: Context) -> list[int]:
        context.cache = getattr(context, "cache", 0) + 1  # type: ignore[attr-defined]  # handlers do
        return [context.cache]  # type: ignore[attr-defined]

    runner = runner_of(handle, tmp_path)
    answers = [runner.run(Predict(number, "predict", texts("a")))[0].body for number in range(3)]
    assert answers == [b"1", b"2", b"3"]


# --- wrong results ---


@pytest.mark.parametrize(
    ("output", "name"), [(("a",), "tuple"), (None, "NoneType"), ({"a": 1}, "dict"), ("a", "str"), (b"", "bytes")]
)
def test_a_result_that_is_no_list_is_an_error(output: Any, name: str, tmp_path: Path) -> None:
    for answer in run(lambda data, context: output, texts("a", "b"), tmp_path):
        assert answer.status == 503
        assert str(answer.error).startswith("Invalid model predict output")
        assert name in str(answer.error)


@pytest.mark.parametrize("length", [0, 3])
def test_a_result_of_the_wrong_length_is_an_error(length: int, tmp_path: Path) -> None:
    for answer in run(lambda data, context: ["x"] * length, texts("a", "b"), tmp_path):
        assert answer.status == 503
        assert str(answer.error).startswith("number of batch response mismatched")


def test_requests_of_a_mismatched_batch_are_answered_one_by_one(tmp_path: Path) -> None:
    answers = run(lambda data, context: [data[0]["body"]], texts("a", "b", "c"), tmp_path)
    assert [answer.body for answer in answers] == [b"a", b"b", b"c"]


def test_one_unsendable_value_spoils_only_its_own_answer(tmp_path: Path) -> None:
    calls = []

    def handle(data: list[Any], context: Context) -> list[Any]:
        calls.append(len(data))
        return ["fine", {1, 2}, "fine too"]

    answers = run(handle, texts("a", "b", "c"), tmp_path)
    assert [answer.status for answer in answers] == [200, 503, 200]
    assert str(answers[1].error).startswith("Unsupported model output data type.")
    assert calls == [3]


def test_one_answer_that_is_too_large_spoils_only_itself(tmp_path: Path) -> None:
    answers = run(lambda data, context: ["x" * 11, "x" * 10], texts("a", "b"), tmp_path, max_response_size_bytes=10)
    assert [(answer.status, len(answer.body)) for answer in answers] == [(500, 0), (200, 10)]


# --- errors stay with their item ---


class Fussy:
    """Answers in upper case; raises on any batch with `bad` in it. Notes what it was called with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls: list[list[str]] = []
        self.ids: list[dict[int, str] | None] = []

    def __call__(self, data: list[Any], context: Context) -> list[str]:
        words = [row["body"] for row in data]
        self.calls.append(words)
        self.ids.append(context.request_ids)
        context.set_all_response_status(299)
        for row in data:
            row.clear()  # handlers do: the rows of the next attempt must be new
        if "bad" in words:
            raise self.error
        context.set_all_response_status(200)
        return [word.upper() for word in words]


ERRORS = [
    (ValueError("secret"), 503, "Prediction failed"),
    (PredictionException("too bad", 400), 400, "too bad"),
    (MemoryError(), 507, "Out of resources"),
    (SystemExit(1), 500, ""),
    (KeyboardInterrupt(), 500, ""),
]


@pytest.mark.parametrize(("error", "status", "text"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_stays_with_its_request(error: BaseException, status: int, text: str, tmp_path: Path) -> None:
    fussy = Fussy(error)
    first, bad, last = run(fussy, texts("a", "bad", "c"), tmp_path)
    assert fussy.calls == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert fussy.ids == [{0: "a", 1: "bad", 2: "c"}, {0: "a"}, {0: "bad"}, {0: "c"}]
    assert (first, last) == (ItemResult("a", body=b"A"), ItemResult("c", body=b"C"))
    assert (bad.status, bad.body) == (status, b"")
    assert str(bad.error).startswith(text)


@pytest.mark.parametrize(("error", "status", "text"), ERRORS, ids=lambda value: type(value).__name__)
def test_a_request_that_was_alone_is_not_tried_again(
    error: BaseException, status: int, text: str, tmp_path: Path
) -> None:
    fussy = Fussy(error)
    (answer,) = run(fussy, texts("bad"), tmp_path)
    assert fussy.calls == [["bad"]]
    assert answer.status == status


def test_without_retry_all_get_the_error(tmp_path: Path) -> None:
    fussy = Fussy(PredictionException("too bad", 422))
    answers = run(fussy, texts("a", "bad"), tmp_path, retry_on_error=False)
    assert fussy.calls == [["a", "bad"]]
    assert [(answer.status, answer.error) for answer in answers] == [(422, "too bad")] * 2


def test_without_retry_a_mismatch_is_everybodys(tmp_path: Path) -> None:
    answers = run(lambda data, context: ["x"], texts("a", "b"), tmp_path, retry_on_error=False)
    assert [answer.status for answer in answers] == [503, 503]


def test_the_traceback_goes_to_the_log_and_not_to_the_client(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        (answer,) = run(Fussy(ValueError("secret")), texts("bad"), tmp_path)
    assert "Traceback" in caplog.text and "secret" in caplog.text
    assert "secret" not in str(answer.error) and str(tmp_path) not in str(answer.error)


def test_the_runner_goes_on_after_every_error(tmp_path: Path) -> None:
    runner = runner_of(Fussy(SystemExit()), tmp_path)
    runner.run(Predict(1, "predict", texts("bad")))
    assert runner.run(Predict(2, "predict", texts("good"))) == [ItemResult("good", body=b"GOOD")]


# --- memory ---


def test_nothing_of_a_request_is_kept_until_the_next_one(runner: Callable[..., RunnerInThread]) -> None:
    running = runner(lambda data, context: [row["body"] for row in data])
    request = batch(1, "x" * 20_000_000)
    tracemalloc.start()
    try:
        running.send(request)
        received = running.said()
        del received
        eventually(lambda: tracemalloc.get_traced_memory()[0] < 1_000_000, "memory given back")
    finally:
        tracemalloc.stop()


def test_large_data_is_handed_over_once_and_copied_while_it_may_be_needed_again(tmp_path: Path) -> None:
    """What a handler does to the data of a batch that fails is not seen when its members are run alone."""
    seen: list[list[bytes]] = []

    def handle(data: list[Any], context: Context) -> list[str]:
        seen.append([bytes(row["body"]) for row in data])
        for row in data:
            row["body"][:] = b"spoiled"
        if len(data) > 1:
            raise ValueError("not together")
        return ["fine"]

    items = [item(name, Part("body", bytearray(name.encode()))) for name in ("one", "two")]
    assert [answer.body for answer in run(handle, items, tmp_path)] == [b"fine", b"fine"]
    assert seen == [[b"one", b"two"], [b"one"], [b"two"]]

    data = bytearray(b"large")
    (row,) = rows_seen_by_handler([item("alone", Part("body", data))], tmp_path)
    assert row["body"] is data
