"""One metric and its values, one for each combination of dimensions."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import TypeAlias

from prometheus_client import Counter, Gauge, Histogram

from model_server.config.metrics_file import DeclaredMetric
from model_server.metrics.exposition import Family, Sample

log = logging.getLogger(__name__)

# TorchServe's, which its dashboards know.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# A handler that makes up dimension values must not fill the server's memory.
MOST_CHILDREN = 10_000

Child: TypeAlias = Counter | Gauge | Histogram


class Series:
    """The state here is prometheus_client's; children are kept so that no labels are looked up twice."""

    def __init__(self, declared: DeclaredMetric, buckets: Sequence[float] = BUCKETS) -> None:
        self.declared = declared
        self._name = _valid(declared.name)
        self._labels = tuple(map(_valid, declared.dimensions))
        self._collector = self._new_collector(buckets)
        self._children: dict[tuple[str, ...], Child] = {}

    def _new_collector(self, buckets: Sequence[float]) -> Child:
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
        """Adds to a counter, sets a gauge, counts in a histogram. Never raises: what cannot be recorded is logged."""
        child = self._children.get(values) or self._new_child(values)
        if child is None:
            return
        if isinstance(child, Gauge):
            child.set(amount)
        elif isinstance(child, Histogram):
            child.observe(amount)
        elif amount >= 0:
            child.inc(amount)
        else:
            log.error("The counter %s cannot be increased by %s; the sample is dropped.", self._name, amount)

    def _new_child(self, values: tuple[str, ...]) -> Child | None:
        if len(values) != len(self._labels):
            log.error(
                "%s wants %d dimensions, %d came; the sample is dropped.", self._name, len(self._labels), len(values)
            )
            return None
        if len(self._children) >= MOST_CHILDREN:
            log.error("%s has %d combinations of dimensions already; the sample is dropped.", self._name, MOST_CHILDREN)
            return None
        child: Child = self._collector.labels(*values) if self._labels else self._collector
        self._children[values] = child
        return child

    def forget(self, values: tuple[str, ...]) -> None:
        """Takes the values of something that is gone out of the document."""
        if self._children.pop(values, None) is not None and self._labels:
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


def _valid(name: str) -> str:
    """A name that Prometheus accepts; handlers call their metrics anything."""
    valid = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{valid}" if not valid or valid[0].isdigit() else valid
