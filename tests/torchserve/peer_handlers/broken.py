"""Fails while it loads."""


class Broken:
    def initialize(self, context):
        raise RuntimeError("broken on purpose")

    def handle(self, data, context):
        return data
