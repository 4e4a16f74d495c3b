"""`/metrics` and the metric logs of the real server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from servers import Server, Servers, eventually

# Records a metric of every type, declared nowhere.
RECORDER = """
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes


def handle(data, context):
    if data is None:
        return None
    if bytes(data[0]["body"]) == b"raise":
        raise ValueError("no")
    metrics = context.metrics
    metrics.add_counter("modelserver_tokens_total", 9)
    metrics.add_counter("modelserver_padding_tokens_total", 2)
    metrics.add_counter("texts", len(data), None, [Dimension("Language", "en")])
    metrics.add_time("waited", 12.5)
    metrics.add_metric("lengths", 0.3, "Count", metric_type=MetricTypes.HISTOGRAM)
    metrics.add_time("HandlerTime", 7.25, None, "ms")
    return ["ok"] * len(data)
"""
HOST = socket.gethostname()
# Every metric that TorchServe's dashboards may show (the contract with it, section 5.2): its type and its
# labels. There are no GPUs here, and so no samples of theirs.
TORCHSERVES = [
    *((f"Requests{family}XX", "counter", ("Level", "Hostname")) for family in "245"),
    ("ts_inference_requests_total", "counter", ("model_name", "model_version", "hostname")),
    ("ts_inference_latency_microseconds", "counter", ("model_name", "model_version", "hostname")),
    ("ts_queue_latency_microseconds", "counter", ("model_name", "model_version", "hostname")),
    ("QueueTime", "gauge", ("Level", "Hostname")),
    ("WorkerThreadTime", "gauge", ("Level", "Hostname")),
    ("WorkerLoadTime", "gauge", ("WorkerName", "Level", "Hostname")),
    ("CPUUtilization", "gauge", ("Level", "Hostname")),
    *((f"Memory{what}", "gauge", ("Level", "Hostname")) for what in ("Used", "Available", "Utilization")),
    *((f"Disk{what}", "gauge", ("Level", "Hostname")) for what in ("Usage", "Utilization", "Available")),
    *((f"GPU{what}", "gauge", ()) for what in ("MemoryUtilization", "MemoryUsed", "Utilization")),
    ("HandlerTime", "gauge", ("ModelName", "Level", "Hostname")),
    ("PredictionTime", "gauge", ("ModelName", "Level", "Hostname")),
]


@pytest.fixture(scope="module")
def measured(module_servers: Servers) -> Server:
    module_servers.archives.pack("m", RECORDER, config={"minWorkers": 1, "maxWorkers": 1})
    return module_servers.start(models=["m.mar"], config={"model_metrics_auto_detect": "true"})


def document(server: Server, **options: object) -> requests.Response:
    answer = requests.get(f"{server.metrics}/metrics", timeout=30, params=options)  # type: ignore[arg-type]
    assert answer.status_code == 200
    return answer


def sample(server: Server, name: str, **labels: str) -> float:
    """0 where there is none."""
    wanted = {key.rstrip("_"): value for key, value in labels.items()}
    for family in text_string_to_metric_families(document(server).text):
        for found in family.samples:
            if found.name in (name, f"{name}_total") and wanted.items() <= found.labels.items():
                return float(found.value)
    return 0.0


def test_the_document_says_what_it_is(measured: Server) -> None:
    answer = document(measured)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "x-request-id" in answer.headers


def test_every_metric_of_torchserve_is_there_with_its_labels_without_being_asked_for(measured: Server) -> None:
    for body in (b"x", b"raise"):
        measured.predict("m", body)
    measured.predict("nobody")
    eventually(lambda: sample(measured, "MemoryUsed") > 0 and sample(measured, "HandlerTime") > 0, "all is measured")
    text = document(measured).text
    # The parser takes the suffix of a counter's name for its own.
    found = {family.name: family for family in text_string_to_metric_families(text)}
    for name, type_, labels in TORCHSERVES:
        family = found[name.removesuffix("_total")]
        assert family.type == type_, name
        assert {tuple(each.labels) for each in family.samples} == ({labels} if labels else set()), name
        assert f"# TYPE {name} {type_}\n" in text


def test_requests_are_counted_by_model_and_status(measured: Server) -> None:
    before = {name: sample(measured, name) for name in ("Requests2XX", "Requests4XX", "Requests5XX")}
    answered = sample(measured, "ts_inference_requests_total", model_name="m", model_version="default")
    measured.predict("m", b"x")
    measured.infer("POST", "predictions/m/1.0", data=b"x")
    measured.predict("m", b"raise")
    measured.predict("nobody", b"x")
    eventually(lambda: sample(measured, "Requests4XX") == before["Requests4XX"] + 1, "the unknown model is counted")
    assert sample(measured, "Requests5XX") == before["Requests5XX"] + 1
    assert sample(measured, "Requests2XX") >= before["Requests2XX"] + 2
    assert sample(measured, "ts_inference_requests_total", model_name="m", model_version="default") == answered + 2
    assert sample(measured, "ts_inference_requests_total", model_name="m", model_version="1.0") >= 1
    assert sample(measured, "modelserver_requests_failed_total", model_name="m") >= 1
    assert sample(measured, "ts_inference_latency_microseconds", model_name="m", model_version="1.0") > 0
    assert sample(measured, "modelserver_batch_size_count", model_name="m") >= 3


def test_the_text_has_torchserves_form(measured: Server) -> None:
    measured.predict("m", b"x")
    assert f'Requests2XX{{Level="Host",Hostname="{HOST}",}} ' in document(measured).text


def test_workers_and_the_machine_are_measured(measured: Server) -> None:
    assert sample(measured, "WorkerLoadTime", WorkerName="W-9000-m_1.0", Level="Host") > 0
    assert sample(measured, "modelserver_workers_ready", model_name="m") == 1
    for name in ("MemoryUsed", "MemoryAvailable", "MemoryUtilization", "DiskUsage", "DiskAvailable"):
        eventually(lambda name=name: sample(measured, name, Level="Host") > 0, f"{name} is measured")


def test_handlers_record_metrics_of_every_type(measured: Server) -> None:
    measured.predict("m", b"x")
    eventually(lambda: sample(measured, "texts", Language="en", ModelName="m") >= 1, "the counter has arrived")
    assert sample(measured, "waited", ModelName="m", Level="Model", Hostname=HOST) == 12.5
    assert sample(measured, "lengths_bucket", le="0.5", ModelName="m") >= 1
    assert sample(measured, "HandlerTime", ModelName="m", Level="Model") == 7.25
    assert sample(measured, "modelserver_padding_tokens_total", model_name="m", model_version="1.0") >= 2
    assert sample(measured, "PredictionTime", ModelName="m", Level="Model") > 0


def test_the_filter_leaves_only_what_it_names(measured: Server) -> None:
    text = document(measured, **{"name[]": ["Requests2XX", "HandlerTime"]}).text
    names = {family.name for family in text_string_to_metric_families(text)}
    assert names <= {"Requests2XX", "HandlerTime"} and "Requests2XX" in names


def test_other_paths_of_the_metrics_port_are_unknown(measured: Server) -> None:
    assert requests.get(f"{measured.metrics}/models", timeout=30).status_code == 404
    paths = requests.options(f"{measured.metrics}/", timeout=30).json()["paths"]
    assert "/metrics" in paths


def test_metric_logs_have_a_line_for_each_sample(measured: Server) -> None:
    measured.predict("m", b"x")
    logs = measured.folder / "logs"
    eventually(
        lambda: (
            "waited.Milliseconds:12.5|#ModelName:m,Level:Model|#hostname:" in (logs / "model_metrics.log").read_text()
        ),
        "the handler's metric is logged",
    )
    text = (logs / "ts_metrics.log").read_text()
    assert f"Requests2XX.Count:1.0|#Level:Host|#hostname:{HOST},timestamp:" in text
    assert f"ts_inference_requests_total.Count:1.0|#model_name:m,model_version:default|#hostname:{HOST}" in text


def test_in_prometheus_mode_the_logs_stay_empty(
    server: Callable[..., Server], make_archive: Callable[..., Path]
) -> None:
    make_archive("m", RECORDER)
    quiet = server(models=["m.mar"], config={"metrics_mode": "prometheus", "disable_system_metrics": "true"})
    quiet.predict("m", b"x")
    eventually(lambda: sample(quiet, "Requests2XX") > 0, "counted")
    assert sample(quiet, "MemoryUsed") == 0
    assert sample(quiet, "texts") == 0  # not declared, not detected
    assert (quiet.folder / "logs" / "ts_metrics.log").read_text() == ""
    assert (quiet.folder / "logs" / "model_metrics.log").read_text() == ""


def test_without_the_metrics_api_there_is_no_port(server: Callable[..., Server]) -> None:
    assert server(config={"enable_metrics_api": "false"}).metrics == ""
