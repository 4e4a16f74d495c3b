"""Collects what a handler records on `context.metrics` until it is sent, with the batch's results."""

from __future__ import annotations

from handlers.metrics import MetricSample, MetricsRecorder
from model_server.wire.messages import Sample


class Recorder:
    """The state here is the list of samples not yet sent."""

    def __init__(self, model_name: str) -> None:
        self._samples: list[MetricSample] = []
        self.metrics = MetricsRecorder(model_name, self._samples.append)

    def take(self) -> list[Sample]:
        """The samples since the last call."""
        taken = [
            (
                sample.name,
                sample.value,
                sample.unit,
                sample.type.name,
                list(sample.dimensions),
                sample.request_id,
            )
            for sample in self._samples
        ]
        self._samples.clear()
        return taken
