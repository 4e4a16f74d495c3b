"""One metric and its values, one for each combination of dimensions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from prometheus_client import Counter, Gauge, Histogram

from model_server.config.metrics_file import DeclaredMetric
from model_server.metrics.exposition import Family, Sample

log = logging.getLogger(__name__)

# TorchServe's, which its dashboards know.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# A handler that makes up dimension values must not fill the server's memory.
MOST_CHILDREN = 10_000

Collector: TypeAlias = Counter | Gauge | Histogram
# Adds to a counter, sets a gauge, counts in a histogram. Never raises: what cannot be recorded is logged.
Record: TypeAlias = Callable[[float], None]


class Series:
    """The state here is prometheus_client's, and how to record for each combination: looking labels up costs 2 µs."""

    def __init__(self, declared: DeclaredMetric, buckets: Sequence[float] = BUCKETS) -> None:
        self.declared = declared
        self._name = _valid(declared.name)
        self._labels = tuple(map(_valid, declared.dimensions))
        self._collector = self._new_collector(buckets)
        self._records: dict[tuple[str, ...], Record] = {}
        self._is_full = False

    def _new_collector(self, buckets: Sequence[float]) -> Collector:
        # Not registered anywhere: names need not be unique for prometheus_client, and the text is written by us.
        help_text = f"Torchserve prometheus {self.declared.type} metric with unit: {self.declared.unit}"
        match self.declared.type:
            case "counter":
                return Counter(self._name, help_text, self._labels, registry=None)
            case "gauge":
                return Gauge(self._name, help_text, self._labels, registry=None)
            case "histogram":
                return Histogram(self._name, help_text, self._labels, registry=None, buckets=buckets)

    def record(self, values: tuple[str, ...], amount: float) -> None:
        self.bind(values)(amount)

    def bind(self, values: tuple[str, ...]) -> Record:
        """How to record for one combination of dimensions, until that is forgotten."""
        return self._records.get(values) or self._new_record(values)

    def _new_record(self, values: tuple[str, ...]) -> Record:
        if len(values) != len(self._labels):
            log.error(
                "%s wants %d dimensions, %d came; the sample is dropped.", self._name, len(self._labels), len(values)
            )
            return drop
        if len(self._records) >= MOST_CHILDREN:
            self._say_full()
            return drop
        record: Record
        child: Collector = self._collector.labels(*values) if self._labels else self._collector
        match child:
            case Gauge():
                record = child.set
            case Histogram():
                record = child.observe
            case Counter():
                record = partial(self._add, child.inc)
        self._records[values] = record
        return record

    def _say_full(self) -> None:
        """Once: whoever makes up values does so with every request."""
        if not self._is_full:
            text = "%s has %d combinations of dimensions; samples of further ones are dropped."
            log.error(text, self._name, MOST_CHILDREN)
        self._is_full = True

    def _add(self, increase: Callable[[float], None], amount: float) -> None:
        if amount >= 0:
            increase(amount)
        else:
            log.error("The counter %s cannot be increased by %s; the sample is dropped.", self._name, amount)

    def forget(self, values: tuple[str, ...]) -> None:
        """Takes the values of something that is gone out of the document."""
        if self._records.pop(values, None) is not None and self._labels:
            self._collector.remove(*values)

    def family(self) -> Family:
        (collected,) = self._collector.collect()
        samples = [
            Sample(self._sample_name(sample.name), tuple(sample.labels.items()), sample.value)
            for sample in collected.samples
            if not sample.name.endswith("_created")
        ]
        return Family(self._name, self.declared.type, collected.documentation, samples)

    def _sample_name(self, name: str) -> str:
        return self._name if self.declared.type == "counter" else name


def drop(amount: float) -> None:
    """Where nothing can be recorded."""


def _valid(name: str) -> str:
    """A name that Prometheus accepts; handlers call their metrics anything."""
    valid = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{valid}" if not valid or valid[0].isdigit() else valid
