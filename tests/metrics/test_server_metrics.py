"""What has happened -> samples, log lines, and the document of /metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import prometheus_client.parser
import pytest

from model_server.config.errors import ConfigError
from model_server.config.metrics_file import DeclaredMetric, MetricsConfig, MetricsMode, read_metrics_file
from model_server.config.metrics_settings import BUILT_IN_FILE
from model_server.metrics.log_lines import LineWriter
from model_server.metrics.series import MOST_CHILDREN, Series
from model_server.metrics.server_metrics import ServerMetrics

# Name, type and unit of every metric of TorchServe's default file.
SERVER_METRICS = [
    *((f"Requests{family}XX", "counter", "Count") for family in "245"),
    ("ts_inference_requests_total", "counter", "Count"),
    ("ts_inference_latency_microseconds", "counter", "Microseconds"),
    ("ts_queue_latency_microseconds", "counter", "Microseconds"),
    *((name, "gauge", "Milliseconds") for name in ("QueueTime", "WorkerThreadTime", "WorkerLoadTime")),
    *((name, "gauge", "Percent") for name in ("CPUUtilization", "MemoryUtilization", "DiskUtilization")),
    *((name, "gauge", "Megabytes") for name in ("MemoryUsed", "MemoryAvailable", "GPUMemoryUsed")),
    *((name, "gauge", "Gigabytes") for name in ("DiskUsage", "DiskAvailable")),
    *((name, "gauge", "Percent") for name in ("GPUMemoryUtilization", "GPUUtilization")),
]


class Written:
    """What went to the metric logs."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def __call__(self, log_name: str, make: Callable[..., str], args: Any, request_id: None, characters: int) -> None:
        text = make(1795263084.9, *args)
        assert len(text) <= characters
        self.lines.append((log_name, text.removesuffix(",timestamp:1795263084")))


def server_metrics(written: Written | None = None, mode: MetricsMode = "log", **options: Any) -> ServerMetrics:
    config = MetricsConfig(declared=read_metrics_file(BUILT_IN_FILE), mode=mode, **options)
    return ServerMetrics(config, "here", written or Written())


def samples(metrics: ServerMetrics, name: str) -> dict[str, float]:
    """Lines of the document for one metric, read by prometheus_client's own parser."""
    metrics.look()
    families = prometheus_client.parser.text_string_to_metric_families(metrics.text())
    return {
        ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        # The parser gives counters the suffix that TorchServe's do not have.
        if sample.name in (name, f"{name}_total")
    }


def test_the_built_in_file_declares_what_torchserves_does() -> None:
    declared = read_metrics_file(BUILT_IN_FILE)
    assert {(metric.name, metric.type, metric.unit) for metric in declared.server} == set(SERVER_METRICS)
    assert [(metric.name, metric.type, metric.unit) for metric in declared.model] == [
        ("HandlerTime", "gauge", "ms"),
        ("PredictionTime", "gauge", "ms"),
    ]
    assert all(metric.dimensions == ("ModelName", "Level", "Hostname") for metric in declared.model)


def test_every_declared_metric_is_in_the_document_before_anything_has_happened() -> None:
    families = prometheus_client.parser.text_string_to_metric_families(server_metrics().text())
    names = {family.name for family in families}
    # The parser takes the suffix of counters for its own.
    assert {name.removesuffix("_total") for name, _, _ in SERVER_METRICS} <= names


@pytest.mark.parametrize(
    ("status", "name"),
    [(200, "Requests2XX"), (404, "Requests4XX"), (500, "Requests5XX"), (599, "Requests5XX"), (302, "Requests5XX")],
)
def test_responses_count_by_their_status(status: int, name: str) -> None:
    metrics = server_metrics()
    metrics.responded(status)
    metrics.responded(status)
    assert samples(metrics, name) == {"Hostname=here,Level=Host": 2}


def test_an_answered_request_is_measured() -> None:
    metrics = server_metrics()
    model = metrics.for_model("m", "2.0")
    model.requested("2.0")
    model.requested(None)
    model.answered("2.0", queue_s=0.25, total_s=1.5)
    named = "hostname=here,model_name=m,model_version=2.0"
    assert samples(metrics, "ts_inference_requests_total") == {
        named: 1,
        "hostname=here,model_name=m,model_version=default": 1,
    }
    assert samples(metrics, "ts_inference_latency_microseconds") == {named: 1_500_000}
    assert samples(metrics, "ts_queue_latency_microseconds") == {named: 250_000}
    assert samples(metrics, "QueueTime") == {"Hostname=here,Level=Host": 250}
    assert samples(metrics, "modelserver_request_seconds_sum") == {"model_name=m,model_version=2.0": 1.5}
    assert samples(metrics, "modelserver_queue_seconds_count") == {"model_name=m,model_version=2.0": 1}


def test_batches_and_workers_are_measured() -> None:
    metrics = server_metrics()
    model = metrics.for_model("m", "1.0")
    model.batch_answered(["a", "b", "c"], service_s=0.2, overhead_s=0.0105)
    model.worker_loaded("W-9000-m_1.0", 1.25)
    model.worker_restarted()
    labels = "model_name=m,model_version=1.0"
    assert samples(metrics, "WorkerThreadTime") == {"Hostname=here,Level=Host": 10.5}
    assert samples(metrics, "WorkerLoadTime") == {"Hostname=here,Level=Host,WorkerName=W-9000-m_1.0": 1250}
    assert samples(metrics, "modelserver_batch_size_sum") == {labels: 3}
    assert samples(metrics, "PredictionTime") == {"Hostname=here,Level=Model,ModelName=m": 200}
    assert samples(metrics, "modelserver_worker_restarts_total") == {labels: 1}


def test_what_is_looked_at_is_as_it_is_now_and_gone_with_its_model() -> None:
    metrics = server_metrics()
    model = metrics.for_model("m", "1.0")
    depths = iter([5, 7])
    metrics.before_writing(lambda: model.look_at(queue_depth=next(depths), workers_ready=2))
    assert samples(metrics, "modelserver_queue_depth") == {"model_name=m,model_version=1.0": 5}
    assert samples(metrics, "modelserver_queue_depth") == {"model_name=m,model_version=1.0": 7}
    metrics._before_writing.clear()
    model.forget()
    assert samples(metrics, "modelserver_queue_depth") == {}


# --- of handlers ---

HANDLER_TIME = ("HandlerTime", 12.5, "Milliseconds", "GAUGE", [("ModelName", "m"), ("Level", "Model")], "id-1")
OWN = ("Tokens used", 7.0, "Count", "COUNTER", [("ModelName", "m")], "")


def test_handlers_record_declared_metrics() -> None:
    metrics = server_metrics()
    metrics.recorded_by_handler([HANDLER_TIME, OWN])
    assert samples(metrics, "HandlerTime") == {"Hostname=here,Level=Model,ModelName=m": 12.5}
    assert "Tokens" not in metrics.text()


def test_with_auto_detection_they_record_any() -> None:
    metrics = server_metrics(auto_detect=True)
    metrics.recorded_by_handler([OWN, OWN, ("size", 3.0, "B", "HISTOGRAM", [], "")])
    assert samples(metrics, "Tokens_used") == {"Hostname=here,ModelName=m": 14}
    assert samples(metrics, "size_count") == {"Hostname=here": 1}


def test_tokens_and_padding_count_for_the_model_whatever_the_file_declares() -> None:
    metrics = server_metrics()
    counts = [(f"modelserver_{what}_total", 5.0, "count", "COUNTER", [], "") for what in ("tokens", "padding_tokens")]
    model = metrics.for_model("m", "1.0")
    model.recorded_by_handler([*counts, HANDLER_TIME])
    model.recorded_by_handler(counts[1:])
    labels = "model_name=m,model_version=1.0"
    assert samples(metrics, "modelserver_tokens_total") == {labels: 5}
    assert samples(metrics, "modelserver_padding_tokens_total") == {labels: 10}
    assert samples(metrics, "HandlerTime") == {"Hostname=here,Level=Model,ModelName=m": 12.5}


def test_a_handler_cannot_take_the_name_of_a_metric_of_the_server() -> None:
    metrics = server_metrics(auto_detect=True)
    metrics.recorded_by_handler([("Requests2XX", 5.0, "Count", "COUNTER", [], "")])
    assert samples(metrics, "Requests2XX") == {}


def test_wrong_dimensions_and_negative_counts_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    metrics = server_metrics(auto_detect=True)
    metrics.recorded_by_handler([("HandlerTime", 1.0, "ms", "GAUGE", [("ModelName", "m")], "")])
    metrics.recorded_by_handler([OWN, ("Tokens used", -1.0, "Count", "COUNTER", [("ModelName", "m")], "")])
    assert samples(metrics, "HandlerTime") == {}
    assert "Tokens_used" in metrics.text() and " 7.0" in metrics.text()
    assert "wants 3 dimensions, 2 came" in caplog.text and "cannot be increased by -1.0" in caplog.text


def test_made_up_dimension_values_end_somewhere_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    series = Series(DeclaredMetric("m", "counter", "Count", ("user",)))
    for number in range(MOST_CHILDREN + 10):
        series.record((str(number),), 1)
    assert len(series.family().samples) == MOST_CHILDREN
    assert len(caplog.records) == 1 and f"m has {MOST_CHILDREN} combinations" in caplog.text


# --- logs ---


def test_a_line_has_torchserves_form() -> None:
    written = Written()
    declared = DeclaredMetric("PredictionTime", "gauge", "ms", ("ModelName", "Level", "Hostname"))
    LineWriter(declared, "MODEL_METRICS", written)(("mnist", "Model", "h"), 83.13, "a-1")
    text = "PredictionTime.ms:83.13|#ModelName:mnist,Level:Model|#hostname:h,requestID:a-1"
    assert written.lines == [("MODEL_METRICS", text)]


def test_in_log_mode_everything_is_logged_as_it_happens() -> None:
    written = Written()
    metrics = server_metrics(written)
    metrics.responded(200)
    metrics.responded(200)
    metrics.for_model("m", "1.0").answered(None, 0.001, 0.5)
    metrics.recorded_by_handler([HANDLER_TIME])
    by_model = "|#model_name:m,model_version:default|#hostname:here"
    assert written.lines == [
        ("TS_METRICS", "Requests2XX.Count:1.0|#Level:Host|#hostname:here"),
        ("TS_METRICS", "Requests2XX.Count:1.0|#Level:Host|#hostname:here"),
        ("TS_METRICS", f"ts_inference_latency_microseconds.Microseconds:500000.0{by_model}"),
        ("TS_METRICS", f"ts_queue_latency_microseconds.Microseconds:1000.0{by_model}"),
        ("TS_METRICS", "QueueTime.Milliseconds:1.0|#Level:Host|#hostname:here"),
        ("MODEL_METRICS", "HandlerTime.ms:12.5|#ModelName:m,Level:Model|#hostname:here,requestID:id-1"),
    ]


def test_in_prometheus_mode_nothing_is_logged_and_in_legacy_mode_all_but_three() -> None:
    written: dict[MetricsMode, Written] = {"prometheus": Written(), "legacy": Written()}
    for mode, log in written.items():
        metrics = server_metrics(log, mode)
        model = metrics.for_model("m", "1.0")
        model.requested(None)
        model.answered(None, 0.001, 0.5)
        assert samples(metrics, "ts_inference_requests_total") != {}
    assert written["prometheus"].lines == []
    assert [text.partition(".")[0] for _, text in written["legacy"].lines] == ["QueueTime"]


# --- metrics.yaml ---


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    return read_metrics_file(path)


def test_a_metric_that_is_taken_out_is_not_recorded(tmp_path: Path) -> None:
    declared = read(
        tmp_path, "ts_metrics: {counter: [{name: Requests2XX, unit: Count, dimensions: [Level, Hostname]}]}"
    )
    metrics = ServerMetrics(MetricsConfig(declared=declared), "here", Written())
    metrics.responded(404)
    metrics.responded(200)
    assert "Requests4XX" not in metrics.text()
    assert samples(metrics, "Requests2XX") == {"Hostname=here,Level=Host": 1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ts_metrics: {counter: [{unit: Count}]}", "has no name"),
        ("ts_metrics: {counter: [{name: a}]}", "has no unit"),
        ("ts_metrics: {summary: []}", "'summary' is none of counter, gauge, histogram"),
        ("ts_metrics: [1]", "must hold counter, gauge and histogram"),
        ("model_metrics: {gauge: 3}", "gauge must be a list"),
        ("model_metrics: {gauge: [3]}", "must have a name, a unit and dimensions"),
        ("model_metrics: {gauge: [{name: a, unit: b, dimensions: [1]}]}", "must be a list of names"),
        ("[", "is not valid YAML"),
        ("!!python/object:os.system {}", "is not valid YAML"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_reason(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metrics_config=") as caught:
        read(tmp_path, text)
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml cannot be read: No such file"):
        read_metrics_file(tmp_path / "nowhere.yaml")
