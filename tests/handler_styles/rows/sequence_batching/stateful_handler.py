import logging
from abc import ABC
from collections import OrderedDict

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class StatefulHandler(BaseHandler, ABC):
    """Adds up the numbers of each sequence."""

    DEFAULT_CAPACITY = 10

    def __init__(self):
        super().__init__()
        self.cache = None
        self.capacity = self.DEFAULT_CAPACITY

    def initialize(self, ctx: Context):
        if ctx.model_yaml_config["handler"] is not None:
            self.capacity = int(ctx.model_yaml_config["handler"].get("cache", {}).get("capacity", self.capacity))
        self.cache = OrderedDict()
        self.context = ctx
        self.initialized = True

    def preprocess(self, data):
        results = []
        for idx, row in enumerate(data):
            sequence_id = self.context.get_sequence_id(idx)
            request = row.get("data") or row.get("body")
            if isinstance(request, (bytes, bytearray)):
                request = request.decode("utf-8")
            if (
                self.context.get_request_header(idx, self.context.header_key_sequence_start)
                or sequence_id not in self.cache
            ):
                previous = 0
            else:
                previous = self.cache[sequence_id]
            self.cache[sequence_id] = previous + int(request)
            while len(self.cache) > self.capacity:
                self.cache.popitem(last=False)
            results.append(self.cache[sequence_id])
        return results

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        return [str(value) for value in data]
