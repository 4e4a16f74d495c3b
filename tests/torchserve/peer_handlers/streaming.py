"""Streams as the body says."""

import warnings

import ts.protocol.otf_message_handler
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException


class Streaming:
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        wanted = data[0]["body"]
        return getattr(self, wanted["do"])(context, **wanted.get("with", {}))

    def send(self, context, pieces, last):
        for piece in pieces:
            send_intermediate_predict_response([piece], context.request_ids, "Intermediate", 200, context)
        return [last]

    def old_path(self, context):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ts.protocol.otf_message_handler.send_intermediate_predict_response(
                ["old"], context.request_ids, "Intermediate", 200, context
            )
        return [" path"]

    def send_bytes(self, context):
        return self.send(context, [b"\x00\xff"], bytearray(b"\x01"))

    def headers(self, context):
        context.set_response_header(0, "X-Early", "1")
        context.set_response_content_type(0, "text/event-stream")
        context.set_response_status(206, "Partial", 0)
        send_intermediate_predict_response(["data: 1\n\n"], context.request_ids, "Intermediate", 200, context)
        context.set_response_header(0, "X-Late", "1")
        context.set_response_status(500, "Too late", 0)
        return ["data: 2\n\n"]

    def fail(self, context, sent):
        self.send(context, ["piece"] * sent, "")
        raise PredictionException("broke", 409)

    def wrong_result(self, context):
        self.send(context, ["piece"], "")
        return "no list"
