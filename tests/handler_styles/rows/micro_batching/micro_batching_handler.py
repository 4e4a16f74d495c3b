from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.image_classifier import ImageClassifier


class MicroBatchingHandler(ImageClassifier):
    def __init__(self):
        super().__init__()
        self.sizes = []
        mb_handle = MicroBatching(self)
        self.handle = mb_handle

    def initialize(self, ctx):
        super().initialize(ctx)
        parallelism = ctx.model_yaml_config.get("micro_batching", {}).get("parallelism", None)
        if parallelism:
            self.handle.parallelism = parallelism
        micro_batch_size = ctx.model_yaml_config.get("micro_batching", {}).get("micro_batch_size", 1)
        self.handle.micro_batch_size = micro_batch_size

    def inference(self, data, *args, **kwargs):
        self.sizes.append(len(data))
        return super().inference(data, *args, **kwargs)

    def describe_handle(self):
        return {"sizes": self.sizes, "parallelism": self.handle.parallelism}
