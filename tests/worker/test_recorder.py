"""Samples of handlers on their way to `Metrics`."""

from typing import Any

import pytest

from handlers.metrics import Dimension, MetricTypes
from model_server.wire.frames import FrameDecoder
from model_server.wire.messages import Metrics, decode, encode
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


@pytest.mark.parametrize(
    ("name", "unit", "dimension"),
    [(b"bytes", "ms", "Level"), ("n", object(), "Level"), ("n", "ms", b"bytes"), (1, 2, 3)],
)
def test_whatever_a_handler_names_its_metrics_can_be_sent(name: Any, unit: Any, dimension: Any) -> None:
    recorder = Recorder("answer")
    recorder.metrics.add_metric(name, 1, unit, dimensions=[Dimension(dimension, "v")], metric_type=MetricTypes.GAUGE)
    (frame,) = FrameDecoder().feed(b"".join(encode(Metrics(recorder.take()))))
    message = decode(frame)
    assert isinstance(message, Metrics)
    assert message.samples[0][0] == str(name)
