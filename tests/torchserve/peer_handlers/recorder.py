"""Records a counter, a gauge and a histogram for every request."""

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes


class Recorder:
    def initialize(self, context):
        self.lengths = context.metrics.add_metric_to_cache(
            metric_name="lengths", unit="count", dimension_names=["Language"], metric_type=MetricTypes.HISTOGRAM
        )

    def handle(self, data, context):
        text = bytes(data[0].get("body") or data[0].get("data"))
        if text == b"raise":
            raise ValueError("no")
        context.metrics.add_counter("texts", 1, None, [Dimension("Language", "en")])
        context.metrics.add_time("waited", 2.5, None, "ms")
        self.lengths.add_or_update(len(text) / 10, ["en"])
        return ["ok"] * len(data)


recorder = Recorder()


def handle(data, context):
    if data is None:
        return recorder.initialize(context)
    return recorder.handle(data, context)
