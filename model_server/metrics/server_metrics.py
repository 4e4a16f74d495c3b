"""Everything the server measures, by what has happened.

Samples go to `/metrics` in every mode; `metrics_mode` decides which of them are logged as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from model_server.config.metrics_file import HOST_DIMENSION, DeclaredMetric, MetricsConfig, MetricType
from model_server.metrics.exposition import write
from model_server.metrics.log_lines import LineWriter, MetricLog, WriteLater
from model_server.metrics.series import Record, Series, drop

log = logging.getLogger(__name__)

# (name, value, unit, type, dimensions, request id), as workers send them.
HandlerSample = tuple[str, float, str, str, list[tuple[str, str]], str]

_HOST = "Host"
# In legacy mode these are counters of /metrics only.
_NEVER_LOGGED_IN_LEGACY = (
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
)
# A handler that makes up names must not fill the server's memory.
_MOST_DETECTED = 1_000

_BY_MODEL = ("model_name", "model_version")
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECOND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Our own, beside those of metrics.yaml.
_OWN: tuple[tuple[str, MetricType, str, Sequence[float]], ...] = (
    ("modelserver_queue_seconds", "histogram", "Seconds", _SECOND_BUCKETS),
    ("modelserver_batch_seconds", "histogram", "Seconds", _SECOND_BUCKETS),
    ("modelserver_request_seconds", "histogram", "Seconds", _SECOND_BUCKETS),
    ("modelserver_batch_size", "histogram", "Count", _BATCH_BUCKETS),
    ("modelserver_queue_depth", "gauge", "Count", ()),
    ("modelserver_workers_ready", "gauge", "Count", ()),
    ("modelserver_worker_restarts_total", "counter", "Count", ()),
    ("modelserver_requests_failed_total", "counter", "Count", ()),
    ("modelserver_tokens_total", "counter", "Count", ()),
    ("modelserver_padding_tokens_total", "counter", "Count", ()),
)
# Those that handlers count: the tokens of the texts, and those that only make the texts of a batch equally long.
_OWN_OF_HANDLERS = ("modelserver_tokens_total", "modelserver_padding_tokens_total")


class Metric:
    """One metric: its series, and its lines in a log where the mode asks for them."""

    def __init__(self, series: Series, write_line: LineWriter | None = None) -> None:
        self.series = series
        self._write_line = write_line

    def record(self, values: tuple[str, ...], amount: float, request_id: str = "") -> None:
        self.series.record(values, amount)
        if self._write_line is not None and len(values) == len(self.series.declared.dimensions):
            self._write_line(values, amount, request_id)

    def bind(self, values: tuple[str, ...]) -> Record:
        """`record` for what is recorded with every request: nothing is looked up any more."""
        record, write_line = self.series.bind(values), self._write_line
        if write_line is None or len(values) != len(self.series.declared.dimensions):
            return record

        def record_and_write(amount: float) -> None:
            record(amount)
            write_line(values, amount)

        return record_and_write


class ServerMetrics:
    """The state here is the metrics by name, and what is to be asked before the document is written."""

    def __init__(self, config: MetricsConfig, hostname: str, write_later: WriteLater) -> None:
        self._config = config
        self._hostname = hostname
        self._write_later = write_later
        self._server = {each.name: self._metric(each, "TS_METRICS") for each in config.declared.server}
        self._model = {each.name: self._metric(each, "MODEL_METRICS") for each in config.declared.model}
        self._own = {
            name: Metric(Series(DeclaredMetric(name, type_, unit, _BY_MODEL), buckets))
            for name, type_, unit, buckets in _OWN
        }
        self._responses: dict[int, Record] = {}
        self._detected = 0
        self._before_writing: list[Callable[[], None]] = []

    def _metric(self, declared: DeclaredMetric, log_name: MetricLog) -> Metric:
        is_logged = self._logs(declared.name)
        return Metric(Series(declared), LineWriter(declared, log_name, self._write_later) if is_logged else None)

    def _logs(self, name: str) -> bool:
        if self._config.mode == "legacy":
            return name not in _NEVER_LOGGED_IN_LEGACY
        return self._config.mode == "log"

    # --- what has happened ---

    def record(self, name: str, dimensions: tuple[str, ...], amount: float) -> None:
        """A metric of the server; one that metrics.yaml does not declare is not recorded. The host is added."""
        self.bind(name, dimensions)(amount)

    def bind(self, name: str, dimensions: tuple[str, ...]) -> Record:
        """`record` for what is recorded with every request."""
        metric = self._server.get(name)
        return metric.bind((*dimensions, self._hostname)) if metric is not None else drop

    def responded(self, status: int) -> None:
        """An HTTP response of any port."""
        (self._responses.get(status) or self._bind_status(status))(1)

    def _bind_status(self, status: int) -> Record:
        family = "2XX" if 200 <= status < 300 else "4XX" if 400 <= status < 500 else "5XX"
        record = self._responses[status] = self.bind(f"Requests{family}", (_HOST,))
        return record

    def for_model(self, name: str, version: str) -> ModelMetrics:
        return ModelMetrics(self, name, version)

    def own(self, name: str) -> Metric:
        return self._own[name]

    def recorded_by_handler(self, samples: Iterable[HandlerSample]) -> None:
        for name, amount, unit, type_, dimensions, request_id in samples:
            metric = self._model.get(name) or self._detect(name, type_, unit, [name for name, _ in dimensions])
            if metric is not None:
                metric.record((*[value for _, value in dimensions], self._hostname), amount, request_id)

    def _detect(self, name: str, type_: str, unit: str, dimensions: list[str]) -> Metric | None:
        is_new = name not in self._server and name not in self._own and self._detected < _MOST_DETECTED
        if not self._config.auto_detect or not is_new:
            return None
        kind: MetricType = next((kind for kind in get_args(MetricType) if kind == type_.lower()), "counter")
        self._detected += 1
        declared = DeclaredMetric(name, kind, unit, (*dimensions, HOST_DIMENSION))
        metric = self._model[name] = self._metric(declared, "MODEL_METRICS")
        return metric

    # --- /metrics ---

    def before_writing(self, measure: Callable[[], None]) -> None:
        """Has `measure` called whenever somebody asks for the document, for what is cheaper looked at than counted."""
        self._before_writing.append(measure)

    def look(self) -> None:
        """To be called before `text`, where the things are that are looked at."""
        for measure in self._before_writing:
            measure()

    def text(self, names: frozenset[str] = frozenset()) -> str:
        """The document of `/metrics`; with `names`, only samples of these names. May run on another thread."""
        metrics = (*self._server.values(), *self._model.values(), *self._own.values())
        return write((metric.series.family() for metric in metrics), names)


@dataclass(frozen=True, slots=True)
class _Answers:
    """What is recorded with every answer, by the version that its client named."""

    latency_us: Record
    queue_us: Record
    queue_ms: Record


class ModelMetrics:
    """What happens to one model version. Times in seconds."""

    def __init__(self, metrics: ServerMetrics, name: str, version: str) -> None:
        self._metrics = metrics
        self._name = name
        self._labels = (name, version)
        self._requests: dict[str | None, Record] = {}
        self._answers: dict[str | None, _Answers] = {}
        self._queue_s = metrics.own("modelserver_queue_seconds").bind(self._labels)
        self._batch_s = metrics.own("modelserver_batch_seconds").bind(self._labels)
        self._request_s = metrics.own("modelserver_request_seconds").bind(self._labels)
        self._batch_size = metrics.own("modelserver_batch_size").bind(self._labels)
        self._restarts = metrics.own("modelserver_worker_restarts_total").bind(self._labels)
        self._failed = metrics.own("modelserver_requests_failed_total").bind(self._labels)

    def requested(self, version: str | None) -> None:
        """A request for this model, whatever becomes of it; `version` as its client named it."""
        (self._requests.get(version) or self._bind_request(version))(1)

    def answered(self, version: str | None, queue_s: float, total_s: float) -> None:
        """The handler has answered; a stream counts when it ends."""
        answers = self._answers.get(version) or self._bind_answer(version)
        answers.latency_us(total_s * 1e6)
        answers.queue_us(queue_s * 1e6)
        answers.queue_ms(float(round(queue_s * 1000)))
        self._queue_s(queue_s)
        self._request_s(total_s)

    def _bind_request(self, version: str | None) -> Record:
        bound = self._metrics.bind("ts_inference_requests_total", (self._name, version or "default"))
        self._requests[version] = bound
        return bound

    def _bind_answer(self, version: str | None) -> _Answers:
        labels = (self._name, version or "default")
        bound = self._answers[version] = _Answers(
            self._metrics.bind("ts_inference_latency_microseconds", labels),
            self._metrics.bind("ts_queue_latency_microseconds", labels),
            self._metrics.bind("QueueTime", (_HOST,)),
        )
        return bound

    def failed(self) -> None:
        """A request ended with an error."""
        self._failed(1)

    def batch_answered(self, request_ids: Sequence[str], service_s: float, overhead_s: float) -> None:
        """A worker was done with a batch. `overhead_s`: what its way there and back took."""
        self._batch_s(service_s)
        self._batch_size(len(request_ids))
        dimensions = [("ModelName", self._name), ("Level", "Model")]
        milliseconds = round(service_s * 1000, 2)
        sample = ("PredictionTime", milliseconds, "ms", "GAUGE", dimensions, ",".join(request_ids))
        # Looked at from here it costs the worker nothing, and decoding and encoding count.
        self._metrics.recorded_by_handler((sample,))
        self._metrics.record("WorkerThreadTime", (_HOST,), round(overhead_s * 1000, 2))

    def worker_loaded(self, worker_name: str, load_s: float) -> None:
        self._metrics.record("WorkerLoadTime", (worker_name, _HOST), float(round(load_s * 1000)))

    def worker_restarted(self) -> None:
        self._restarts(1)

    def recorded_by_handler(self, samples: Iterable[HandlerSample]) -> None:
        others = []
        for sample in samples:
            if (name := sample[0]) in _OWN_OF_HANDLERS:
                self._metrics.own(name).record(self._labels, sample[1])
            else:
                others.append(sample)
        self._metrics.recorded_by_handler(others)

    def look_at(self, queue_depth: int, workers_ready: int) -> None:
        """Measured when `/metrics` is asked for."""
        self._metrics.own("modelserver_queue_depth").record(self._labels, queue_depth)
        self._metrics.own("modelserver_workers_ready").record(self._labels, workers_ready)

    def forget(self) -> None:
        """The model is gone: what is looked at when asked for must not stay as it was."""
        for name in ("modelserver_queue_depth", "modelserver_workers_ready"):
            self._metrics.own(name).series.forget(self._labels)
