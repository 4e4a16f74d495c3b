"""Answers per request of a batch: the body says which status and header its own answer gets, or that all fail."""

from ts.utils.util import PredictionException


class Batch:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        wanted = [row["body"] for row in data]
        if any(each.get("fail") for each in wanted):
            raise PredictionException("one of the batch", 409)
        for index, each in enumerate(wanted):
            if "status" in each:
                context.set_response_status(each["status"], each["phrase"], index)
            context.set_response_header(index, "X-Name", each["name"])
        return [{"name": each["name"], "batch": len(data)} for each in wanted]
