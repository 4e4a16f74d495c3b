"""Collects what a handler records on `context.metrics` until it is sent, after the batch's results."""

from __future__ import annotations

from handlers.metrics import MetricSample, MetricsRecorder


class Recorder:
    """The state here is the list of samples not yet sent."""

    def __init__(self, model_name: str) -> None:
        self._samples: list[MetricSample] = []
        self.metrics = MetricsRecorder(model_name, self._samples.append)

    def take(self) -> list[tuple[str, float, str, str, list[tuple[str, str]], str]]:
        """The samples since the last call, in the form of `Metrics.samples`."""
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
