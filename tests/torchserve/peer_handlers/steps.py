"""Streams as the input says, in bytes: as many intermediate parts as asked for, then the rest."""

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


class Steps:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        wanted = bytes(data[0]["data"]).decode()
        count, _, last = wanted.partition(" ")
        for number in range(int(count)):
            send_intermediate_predict_response([f"part {number}"], context.request_ids, "Intermediate", 200, context)
        if last == "fail":
            raise PredictionException("broke", 409)
        return [last]
