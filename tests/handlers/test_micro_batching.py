"""Micro-batching: slices, order, errors, threads. Expected values follow from what each step does to numbers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from handlers.context import Context, RequestProcessor
from handlers.micro_batching import MicroBatching

DEADLINE_S = 10


class Handler:
    """Adds 1, doubles, makes text; remembers which slices it saw. An error in a step is the row itself."""

    def __init__(self) -> None:
        self.slices: list[Any] = []
        self.handle = MicroBatching(self)

    def preprocess(self, rows: list[Any]) -> list[Any]:
        self.slices.append((self.handle.get_micro_batch_idx(), rows))
        for row in rows:
            if isinstance(row, BaseException):
                raise row
        return [row + 1 for row in rows]

    def inference(self, values: list[Any]) -> list[Any]:
        return [value * 2 for value in values]

    def postprocess(self, values: list[Any]) -> list[str]:
        return [str(value) for value in values]

    def _is_explain(self) -> bool:
        return self.context.get_request_header(0, "explain") == "True"

    def _is_describe(self) -> bool:
        return self.context.get_request_header(0, "describe") == "True"


# A class attribute, because the instance's `handle` is the micro-batching one.
Handler.handle = lambda self, data, context: ["whole", len(data)]  # type: ignore[attr-defined]


@pytest.fixture
def handler() -> Iterator[Handler]:
    made = Handler()
    yield made
    made.handle.shutdown()


def context(**headers: str) -> Context:
    made = Context("m", ".", None, 8, None, "0")
    made.request_processor = [RequestProcessor(headers)] * 8
    return made


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_answers_come_in_the_order_of_requests(handler: Handler, size: int, threads: int) -> None:
    handler.handle.micro_batch_size = size
    handler.handle.parallelism = dict.fromkeys(["preprocess", "inference", "postprocess"], threads)
    assert handler.handle([0, 1, 2, 3, 4], context()) == ["2", "4", "6", "8", "10"]
    assert handler.handle([], context()) == []


def test_slices_are_numbered(handler: Handler) -> None:
    handler.handle.micro_batch_size = 2
    handler.handle([1, 2, 3, 4, 5], context())
    assert handler.slices == [(0, [1, 2]), (1, [3, 4]), (2, [5])]


def test_steps_run_side_by_side(handler: Handler) -> None:
    """The second slice is preprocessed while the first one is in the model: each waits for the other."""
    both = threading.Barrier(2)

    def preprocess(rows: list[int]) -> list[int]:
        if rows == [1]:
            both.wait(DEADLINE_S)
        return rows

    def inference(rows: list[int]) -> list[int]:
        if rows == [0]:
            both.wait(DEADLINE_S)
        return rows

    handler.preprocess, handler.inference = preprocess, inference  # type: ignore[method-assign]
    assert handler.handle([0, 1], context()) == ["0", "1"]


def test_parallelism_is_the_number_of_slices_in_one_step(handler: Handler) -> None:
    three = threading.Barrier(3)

    def inference(values: list[int]) -> list[int]:
        three.wait(DEADLINE_S)
        return values

    handler.inference = inference  # type: ignore[method-assign]
    handler.handle.parallelism = {"inference": 3}
    assert handler.handle([0, 1, 2], context()) == ["1", "2", "3"]


@pytest.mark.parametrize("position", [0, 2, 4])
def test_an_error_in_a_step_is_the_answer_to_the_batch(handler: Handler, position: int) -> None:
    rows: list[Any] = [0, 1, 2, 3, 4]
    rows[position] = LookupError("no such row")
    with pytest.raises(LookupError, match="no such row"):
        handler.handle(rows, context())
    assert handler.handle([0, 1], context()) == ["2", "4"]


def test_an_error_does_not_wait_for_other_slices(handler: Handler) -> None:
    finished = threading.Event()
    handler.inference = lambda values: finished.wait(DEADLINE_S) and values  # type: ignore[method-assign]
    handler.handle.parallelism = {"preprocess": 2}
    with pytest.raises(LookupError):
        handler.handle([0, LookupError()], context())
    assert not finished.is_set()
    finished.set()


def test_results_cannot_slip_to_other_requests(handler: Handler) -> None:
    handler.handle.micro_batch_size = 2
    handler.postprocess = lambda values: values if len(values) == 1 else values[:1]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="1 results for a micro batch of 2 requests"):
        handler.handle([1, 2, 3], context())


@pytest.mark.parametrize("header", ["explain", "describe"])
def test_explanations_and_descriptions_get_the_whole_batch(handler: Handler, header: str) -> None:
    assert handler.handle([1, 2, 3], context(**{header: "True"})) == ["whole", 3]


def test_profiling_gets_the_whole_batch(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    assert handler.handle([1, 2, 3], context()) == ["whole", 3]


def test_time_of_the_batch_is_recorded(handler: Handler) -> None:
    recorded: list[Any] = []

    class Metrics:
        def add_time(self, *arguments: Any) -> None:
            recorded.append(arguments)

    with_metrics = context()
    with_metrics.metrics = Metrics()
    handler.handle([1], with_metrics)
    [(name, value, index, unit)] = recorded
    assert (name, index, unit) == ("HandlerTime", None, "ms")
    assert 0 <= value < DEADLINE_S * 1000


def test_parallelism_is_set_per_step(handler: Handler) -> None:
    assert handler.handle.parallelism == {"preprocess": 1, "inference": 1, "postprocess": 1}
    handler.handle.parallelism = {"inference": 4}
    assert handler.handle.parallelism == {"preprocess": 1, "inference": 4, "postprocess": 1}
    assert MicroBatching(handler, 2, {"preprocess": 2}).parallelism["preprocess"] == 2


@pytest.mark.parametrize(
    ("threads", "message"),
    [
        ({"inference": 2, "postproces": 1}, "'postproces' is no step of a handler"),
        ({"inference": 0}, "parallelism of inference is 0"),
        ({"inference": "2"}, "parallelism of inference is '2'"),
    ],
)
def test_wrong_parallelism_is_refused_as_a_whole(handler: Handler, threads: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        handler.handle.parallelism = threads
    assert handler.handle.parallelism == {"preprocess": 1, "inference": 1, "postprocess": 1}


@pytest.mark.parametrize("size", [0, -1, "4", 1.5, True])
def test_wrong_sizes_are_refused(handler: Handler, size: Any) -> None:
    with pytest.raises(ValueError, match=f"micro_batch_size is {size!r}"):
        handler.handle.micro_batch_size = size


def test_shutdown_ends_the_threads() -> None:
    handler = Handler()
    handler.handle.parallelism = dict.fromkeys(["preprocess", "inference", "postprocess"], 2)
    handler.handle([1, 2, 3, 4], context())
    assert [thread.name for thread in threading.enumerate() if "micro-batching" in thread.name]
    handler.handle.shutdown()
    handler.handle.shutdown()
    assert [thread.name for thread in threading.enumerate() if "micro-batching" in thread.name] == []


def test_fewer_threads_end_the_former_ones(handler: Handler) -> None:
    handler.handle.parallelism = {"inference": 3}
    handler.handle([1, 2, 3], context())
    handler.handle.parallelism = {"inference": 1}
    handler.handle([1, 2, 3], context())
    names = [thread.name for thread in threading.enumerate()]
    assert sum("micro-batching-inference" in name for name in names) == 1
