"""`context.metrics`: TorchServe's rules and texts."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

import numpy as np
import pytest
import torch

from handlers.metric_cache import (
    CachingMetric,
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from handlers.metrics import Dimension, MetricSample, MetricsRecorder, MetricTypes
from handlers.metrics_store import Metric, MetricsStore

MODEL = (("ModelName", "answer"), ("Level", "Model"))


@pytest.fixture
def samples() -> list[MetricSample]:
    return []


@pytest.fixture
def metrics(samples: list[MetricSample]) -> MetricsRecorder:
    recorder = MetricsRecorder("answer", samples.append)
    recorder.set_request_ids({0: "r0", 1: "r1"})
    return recorder


# --- add_* ---


@pytest.mark.parametrize(
    ("method", "arguments", "unit", "kind"),
    [
        ("add_metric", ("n", 2, "widgets"), "widgets", MetricTypes.COUNTER),
        ("add_metric", ("n", 2, "", None, [], MetricTypes.HISTOGRAM), "unit", MetricTypes.HISTOGRAM),
        ("add_counter", ("n", 2), "Count", MetricTypes.COUNTER),
        ("add_time", ("n", 2), "Milliseconds", MetricTypes.GAUGE),
        ("add_time", ("n", 2, None, "s"), "Seconds", MetricTypes.GAUGE),
        ("add_size", ("n", 2), "Megabytes", MetricTypes.GAUGE),
        ("add_size", ("n", 2, None, "kB"), "Kilobytes", MetricTypes.GAUGE),
        ("add_size", ("n", 2, None, "GB"), "Gigabytes", MetricTypes.GAUGE),
        ("add_size", ("n", 2, None, "B", [], MetricTypes.HISTOGRAM), "Bytes", MetricTypes.HISTOGRAM),
        ("add_percent", ("n", 2), "Percent", MetricTypes.GAUGE),
    ],
)
def test_units_types_and_default_dimensions(
    metrics: MetricsRecorder,
    samples: list[MetricSample],
    method: str,
    arguments: tuple[Any, ...],
    unit: str,
    kind: MetricTypes,
) -> None:
    getattr(metrics, method)(*arguments)
    assert samples == [MetricSample("n", 2.0, unit, kind, MODEL, "r0,r1")]


def test_a_sample_belongs_to_its_request_or_to_the_whole_batch(
    metrics: MetricsRecorder, samples: list[MetricSample]
) -> None:
    for idx in (0, 1, 7, None):
        metrics.add_counter("n", 1, idx)
    metrics.request_ids = None
    metrics.add_counter("n", 1, 0)
    assert [sample.request_id for sample in samples] == ["r0", "r1", "r0,r1", "r0,r1", ""]


def test_own_dimensions_come_first_and_replace_the_default_of_that_name(
    metrics: MetricsRecorder, samples: list[MetricSample]
) -> None:
    given = [Dimension("Level", "Layer"), Dimension("Digit", 3)]  # type: ignore[arg-type]
    metrics.add_metric("n", 1, "ms", None, given)
    assert samples[0].dimensions == (("Level", "Layer"), ("Digit", "3"), ("ModelName", "answer"))
    assert len(given) == 2


def test_errors_carry_only_their_level(metrics: MetricsRecorder, samples: list[MetricSample]) -> None:
    metrics.add_error("broken", 1)
    metrics.add_error("worse", 1, [Dimension("Level", "Fatal"), Dimension("At", "load")])
    assert samples == [
        MetricSample("broken", 1.0, "unit", MetricTypes.COUNTER, (("Level", "Error"),)),
        MetricSample("worse", 1.0, "unit", MetricTypes.COUNTER, (("Level", "Fatal"), ("At", "load"))),
    ]


def test_units_that_a_kind_does_not_have(metrics: MetricsRecorder, samples: list[MetricSample]) -> None:
    with pytest.raises(MetricsCacheValueError, match=r"^the unit for a timed metric should be one of \['ms', 's'\]$"):
        metrics.add_time("n", 1, unit="minutes")
    with pytest.raises(ValueError, match=r"^The unit for size based metric is one of \['MB','kB', 'GB', 'B'\]$"):
        metrics.add_size("n", 1, unit="TB")
    assert samples == []


# --- metrics declared first ---


def test_a_declared_metric_is_found_again_and_has_no_default_dimensions(
    metrics: MetricsRecorder, samples: list[MetricSample]
) -> None:
    declared = metrics.add_metric_to_cache("Calls", "count", ["Kind", "Place"])
    assert samples == []
    assert metrics.get_metric("Calls") is declared
    declared.add_or_update(1, ["a", "b"], "r0")
    declared.add_or_update(2, ["c", 4])
    assert samples == [
        MetricSample("Calls", 1.0, "Count", MetricTypes.COUNTER, (("Kind", "a"), ("Place", "b")), "r0"),
        MetricSample("Calls", 2.0, "Count", MetricTypes.COUNTER, (("Kind", "c"), ("Place", "4"))),
    ]


def test_one_name_may_have_one_metric_of_each_type(metrics: MetricsRecorder) -> None:
    counter = metrics.add_metric_to_cache("n", "count")
    gauge = metrics.add_metric_to_cache(metric_name="n", unit="ms", metric_type=MetricTypes.GAUGE)
    assert metrics.get_metric("n", MetricTypes.GAUGE) is gauge is not counter
    assert metrics.cache_keys() == ["counter:n", "gauge:n"]
    assert metrics.cache == {MetricTypes.COUNTER: {"n": counter}, MetricTypes.GAUGE: {"n": gauge}}


def test_declaring_again_takes_the_place_of_the_first(
    metrics: MetricsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    first = metrics.add_metric_to_cache("n", "ms")
    second = metrics.add_metric_to_cache("n", "s")
    assert metrics.get_metric("n") is second is not first
    assert "Overriding existing key MetricTypes.COUNTER:n" in caplog.text


def test_a_metric_nobody_declared(metrics: MetricsRecorder) -> None:
    with pytest.raises(MetricsCacheKeyError, match=r"Metric of type 'MetricTypes\.GAUGE' and name 'n' doesn't exist"):
        metrics.get_metric("n", MetricTypes.GAUGE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric_name": 1}, "`metric_name` must be a str"),
        ({"unit": None}, "`unit` must be a str"),
        ({"metric_type": "counter"}, "`metric_type` must be a MetricTypes enum"),
        ({"dimension_names": "Level"}, "`dimension_names` should be a list of dimension name strings"),
    ],
)
def test_declarations_of_the_wrong_type(metrics: MetricsRecorder, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MetricsCacheTypeError, match=f"^{message}$"):
        metrics.add_metric_to_cache(**{"metric_name": "n", "unit": "ms", **arguments})
    assert metrics.cache_keys() == []


def test_the_older_update_brings_its_own_dimensions(
    metrics: MetricsRecorder, samples: list[MetricSample], caplog: pytest.LogCaptureFixture
) -> None:
    metric = metrics.add_metric_to_cache("n", "ms", ["Kind"], MetricTypes.GAUGE)
    metric.update(5, "r1", [Dimension("Place", "b")])
    assert samples == [MetricSample("n", 5.0, "Milliseconds", MetricTypes.GAUGE, (("Place", "b"),), "r1")]
    assert metric.dimension_names == ["Place"]
    assert "Overriding existing dimensions" in caplog.text


# --- values ---


@pytest.mark.parametrize(
    "value", [3, 3.0, "3", np.float32(3), np.int64(3), np.array([3])[0], torch.tensor(3), torch.tensor([3.0])]
)
def test_everything_that_is_a_number_is_recorded(
    metrics: MetricsRecorder, samples: list[MetricSample], value: Any
) -> None:
    metrics.add_time("n", value)
    metrics.add_counter("c", value)
    assert [sample.value for sample in samples] == [3.0, 3.0]
    assert all(type(sample.value) is float for sample in samples)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "NoneType is no number"),
        ("many", "str is no number"),
        (torch.ones(2), "Tensor is no number"),
        (10**400, "int is no number"),
        (float("nan"), "only finite numbers can be recorded"),
        (float("inf"), "only finite numbers can be recorded"),
    ],
)
def test_a_value_that_is_no_number_is_logged_and_dropped(
    metrics: MetricsRecorder, samples: list[MetricSample], caplog: pytest.LogCaptureFixture, value: Any, reason: str
) -> None:
    metrics.add_time("n", value)
    metrics.add_counter("n", value)
    assert samples == []
    assert caplog.text.count(reason) == 2
    assert max(len(record.getMessage()) for record in caplog.records) < 300


def test_a_counter_never_goes_back(
    metrics: MetricsRecorder, samples: list[MetricSample], caplog: pytest.LogCaptureFixture
) -> None:
    metrics.add_counter("n", -1)
    assert samples == []
    assert caplog.record_tuples[-1][1:] == (
        logging.ERROR,
        "[METRICS]Failed to update metric with name:n and dimensions: ModelName:answer,Level:Model with value: -1: "
        "Counter metric update value cannot be negative",
    )
    metrics.add_metric("g", -1, "ms", metric_type=MetricTypes.GAUGE)
    assert [sample.value for sample in samples] == [-1.0]


@pytest.mark.parametrize("values", [None, [], ["a"], ["a", "b", "c"]])
def test_values_for_other_dimensions_are_logged_and_dropped(
    metrics: MetricsRecorder, samples: list[MetricSample], caplog: pytest.LogCaptureFixture, values: Any
) -> None:
    metrics.add_metric_to_cache("n", "ms", ["Kind", "Place"]).add_or_update(1, values)
    assert samples == []
    assert f"Dimension values: {values} should correspond to Dimension names: ['Kind', 'Place']" in caplog.text


def test_the_first_use_declares_the_dimensions(
    metrics: MetricsRecorder, samples: list[MetricSample], caplog: pytest.LogCaptureFixture
) -> None:
    metrics.add_counter("n", 1)
    metrics.add_counter("n", 1, None, [Dimension("Kind", "a")])
    assert len(samples) == 1
    assert "Dimension values: ['a', 'answer', 'Model'] should correspond" in caplog.text


def test_a_metric_that_a_handler_makes_itself() -> None:
    metric = CachingMetric("n", "GB", ["Kind"], MetricTypes.HISTOGRAM)
    metric.add_or_update(1, ["a"])
    assert (metric.metric_name, metric.unit, metric.dimension_names) == ("n", "Gigabytes", ["Kind"])
    assert metric.metric_type is MetricTypes.HISTOGRAM


def test_dimensions_as_text() -> None:
    assert str(Dimension("Level", "Model")) == "Level:Model"


# --- the former store ---


def test_the_store_adds_counters_up_and_replaces_other_values() -> None:
    store = MetricsStore({0: "r0", 1: "r1"}, "answer")
    for value in (1, 2):
        store.add_counter("Calls", value, 0)
        store.add_time("Spent", value)
        store.add_error("Broken", f"error {value}")
    store.add_counter("Calls", 5, 1)
    assert [(metric.name, metric.value, metric.unit, metric.request_id) for metric in store.store] == [
        ("Calls", 3, "Count", "r0"),
        ("Spent", 2, "Milliseconds", "r0,r1"),
        ("Broken", "error 2", "unit", None),
        ("Calls", 5, "Count", "r1"),
    ]
    assert next(iter(store.cache)) == "Calls-count-r0-ModelName:answer-Level:Model"


def test_the_store_refuses_what_it_always_refused() -> None:
    store = MetricsStore("r0", "answer")
    with pytest.raises(ValueError, match="Please provide a list of dimensions"):
        store.add_percent("n", 1, dimensions=("no", "list"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timed metric"):
        store.add_time("n", 1, unit="h")
    with pytest.raises(ValueError, match="size based metric"):
        store.add_size("n", 1, unit="TB")


def test_a_stored_metric_as_a_line_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "host")
    monkeypatch.setattr(time, "time", lambda: 12.9)
    dimensions = [Dimension("Level", "Model"), Dimension("Kind", "a")]
    metric = Metric("n", 1, "ms", dimensions, "r0", "counter")
    metric.update(2)
    assert str(metric) == "n.Milliseconds:3|#Level:Model,Kind:a|#hostname:host,12,r0"
    assert metric.to_dict() == {
        "MetricName": "n",
        "Value": 3,
        "Unit": "Milliseconds",
        "Dimensions": dimensions,
        "Timestamp": 12,
        "HostName": "host",
        "RequestId": "r0",
    }
    metric.reset()
    assert str(Metric("n", 0, "ms", dimensions)) == str(metric).removesuffix(",r0")
