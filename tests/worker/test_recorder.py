"""Samples of handlers on their way to `Result`."""

from typing import Any

import pytest

from handlers.metric_cache import MetricsCacheTypeError
from handlers.metrics import Dimension, MetricTypes
from model_server.wire.frames import FrameDecoder
from model_server.wire.messages import Result, decode, encode
from model_server.worker.recorder import Recorder


def test_samples_are_taken_once_and_in_order() -> None:
    recorder = Recorder("answer")
    recorder.metrics.set_request_ids({0: "r0", 1: "r1"})
    recorder.metrics.add_counter("Calls", 2, idx=1)
    recorder.metrics.add_time("Spent", 1.5, dimensions=[Dimension("Level", "Handler")])
    assert recorder.take() == [
        ("Calls", 2.0, "Count", "COUNTER", [("ModelName", "answer"), ("Level", "Model")], "r1"),
        ("Spent", 1.5, "Milliseconds", "GAUGE", [("Level", "Handler"), ("ModelName", "answer")], "r0,r1"),
    ]
    assert recorder.take() == []


def test_an_invalid_metric_is_the_handlers_error_and_leaves_no_sample() -> None:
    recorder = Recorder("answer")
    with pytest.raises(ValueError, match="timed metric"):
        recorder.metrics.add_time("Spent", 1, unit="minutes")
    assert recorder.take() == []


def test_whatever_a_handler_names_its_dimensions_can_be_sent() -> None:
    recorder = Recorder("answer")
    named: Any = Dimension(b"bytes", 3)  # type: ignore[arg-type]
    recorder.metrics.add_metric("lone \ud800", 1, "ms", dimensions=[named], metric_type=MetricTypes.GAUGE)
    (frame,) = FrameDecoder().feed(b"".join(encode(Result(1, [], samples=recorder.take()))))
    message = decode(frame)
    assert isinstance(message, Result)
    name, value, unit, kind, dimensions, _ = message.samples[0]
    assert (name, value, unit, kind) == ("lone \ud800", 1.0, "Milliseconds", "GAUGE")
    assert ("b'bytes'", "3") in [tuple(pair) for pair in dimensions]


@pytest.mark.parametrize(("name", "unit"), [(b"bytes", "ms"), ("n", object()), ("n", None), (1, 2)])
def test_names_and_units_that_are_no_text_are_refused(name: Any, unit: Any) -> None:
    recorder = Recorder("answer")
    with pytest.raises(MetricsCacheTypeError, match="must be a str"):
        recorder.metrics.add_metric(name, 1, unit)
    assert recorder.take() == []
