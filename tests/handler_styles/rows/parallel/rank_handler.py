import os

from ts.torch_handler.base_handler import BaseHandler


class RankHandler(BaseHandler):
    """What a worker of several processes is told about them."""

    def initialize(self, ctx):
        self.ranks = [os.environ.get(name) for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE")]
        self.initialized = True

    def handle(self, data, context):
        return [{"ranks": self.ranks}] * len(data)
