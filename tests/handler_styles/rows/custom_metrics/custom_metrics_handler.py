import time

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.torch_handler.image_classifier import ImageClassifier


class MetricsClassifier(ImageClassifier):
    """Records a metric of every kind, in every way there is."""

    def initialize(self, context):
        super().initialize(context)
        metrics = context.metrics
        self.inference_count = metrics.add_metric_to_cache(
            metric_name="InferenceRequestCount",
            unit="count",
            dimension_names=["Host", "Kind"],
            metric_type=MetricTypes.COUNTER,
        )
        self.old_style = metrics.add_metric_to_cache(metric_name="OldStyleCount", unit="count")
        metrics.add_metric_to_cache(
            metric_name="InitializeCallCount",
            unit="count",
            dimension_names=["ModelName", "Level", "Host"],
            metric_type=MetricTypes.COUNTER,
        )
        initialized = metrics.get_metric("InitializeCallCount", MetricTypes.COUNTER)
        initialized.add_or_update(1, [context.model_name, "Model", "h"])
        metrics.add_metric(name="GaugeOfStart", value=1.5, unit="ms", metric_type=MetricTypes.GAUGE)

    def preprocess(self, data):
        started = time.time()
        metrics = self.context.metrics
        metrics.add_counter("PreprocessCallCount", len(data), None, [Dimension("Step", "preprocess")])
        metrics.add_size("SizeOfImage", len(data[0].get("data") or data[0].get("body")) / 1024, None, "kB")
        images = super().preprocess(data)
        time_ms = (time.time() - started) * 1000
        metrics.add_time("PreprocessTime", time_ms, None, "ms", metric_type=MetricTypes.HISTOGRAM)
        return images

    def postprocess(self, data):
        metrics = self.context.metrics
        self.inference_count.add_or_update(len(data), ["here", "image"], self.context.get_request_id(0))
        self.old_style.update(value=1, request_id=self.context.get_request_id(0), dimensions=[Dimension("Host", "h")])
        metrics.add_percent("ExamplePercent", 42.0, 0)
        metrics.add_error("ExampleError", 0)
        metrics.add_metric("ExampleHistogram", 0.25, "ms", None, [Dimension("Host", "h")], MetricTypes.HISTOGRAM)
        return super().postprocess(data)

    def describe_handle(self):
        metric = self.context.metrics.get_metric("InferenceRequestCount", MetricTypes.COUNTER)
        return {"unit": metric.unit, "dimensions": metric.dimension_names, "type": metric.metric_type.value}
