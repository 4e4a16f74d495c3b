import json
import logging
from abc import ABC

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class StatefulHandler(BaseHandler, ABC):
    """Sessions that are opened and closed by one-shot requests; what comes between is streamed."""

    def initialize(self, ctx: Context):
        self.context = ctx
        self.context.cache = {}
        self.initialized = True

    def preprocess(self, data):
        results = []
        for idx, row in enumerate(data):
            req_id, sequence_id = self.context.get_request_id(idx), self.context.get_sequence_id(idx)
            session = self.context.cache.setdefault(sequence_id, {"total": 0, "requests": {}})
            if req_id not in session["requests"]:
                request = json.loads((row.get("data") or row.get("body")).decode("utf-8"))
                session["requests"][req_id] = {"type": request["type"], "inputs": request.get("inputs", [])}
            results.append(self.step(idx, sequence_id, session, session["requests"][req_id]))
        return results

    def step(self, idx, sequence_id, session, request):
        if request["type"] == "open_session":
            self.context.set_response_header(idx, self.context.header_key_sequence_id, sequence_id)
            return {"result": "opened", "last": None}
        if request["type"] == "close_session":
            self.context.set_response_header(idx, self.context.header_key_sequence_end, sequence_id)
            del self.context.cache[sequence_id]
            return {"result": f"closed at {session['total']}", "last": None}
        session["total"] += request["inputs"].pop(0)
        return {"result": f"{session['total']};", "last": not request["inputs"]}

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        self.context.stopping_criteria = [StoppingCriteria(each["last"]) for each in data]
        return [each["result"] for each in data]


class StoppingCriteria:
    """None: an answer in one piece."""

    def __init__(self, last):
        self.last = last

    def __call__(self, res):
        return self.last
