"""A function as a handler. The body names what it returns, sets or raises."""

import sys

import numpy as np
import torch
from ts.utils.util import PredictionException


def answer(data, context):
    if data is None:  # the call that initialises
        return None
    name = bytes(data[0].get("body") or b"").decode()
    return ACTIONS[name](context)


def fail(error):
    raise error


def set_status(context, *arguments):
    context.set_response_status(*arguments)
    return ["with a status"]


def set_header(context, name, value):
    context.set_response_header(0, name, value)
    return ["with a header"]


def set_content_type(context, value):
    context.set_response_content_type(0, value)
    return [{"type": context.get_response_content_type(0)}]


def set_everything(context):
    context.set_all_response_status(202, "Taken")
    context.set_response_header(0, "X-Answer", "42")
    context.set_response_content_type(0, "application/vnd.test+json")
    return [{"status": context.get_response_status(0), "headers": context.get_response_headers(0)}]


def report_status(context):
    context.request_processor[0].report_status(500, "Went wrong")
    return ["reported by the processor"]


ACTIONS = {
    # one result
    "text": lambda _: ["grüße"],
    "empty text": lambda _: [""],
    "bytes": lambda _: [bytes(range(256))],
    "bytearray": lambda _: [bytearray(b"\x00\xff")],
    "empty bytes": lambda _: [b""],
    "dict": lambda _: [{"ü": [1, 2.5, None, True], "nested": {"a": []}}],
    "empty dict": lambda _: [{}],
    "list": lambda _: [[1, [2, "x"]]],
    "integer": lambda _: [7],
    "zero": lambda _: [0],
    "float": lambda _: [0.1],
    "boolean": lambda _: [True],
    "none": lambda _: [None],
    "nan": lambda _: [{"a": float("nan"), "b": [float("inf"), float("-inf")]}],
    "tuple": lambda _: [(1, 2)],
    "integer keys": lambda _: [{1: "a", None: "b"}],
    "tensor": lambda _: [torch.arange(6, dtype=torch.float32).reshape(2, 3)],
    "scalar tensor": lambda _: [torch.tensor(3)],
    "float64 of numpy": lambda _: [np.float64(0.5)],
    # nothing that can be sent
    "array": lambda _: [np.zeros(2)],
    "float32 of numpy": lambda _: [np.float32(0.5)],
    "set": lambda _: [{1, 2}],
    "bytes in a dict": lambda _: [{"a": b"x"}],
    "tensor in a dict": lambda _: [{"a": torch.ones(1)}],
    # no list of one result
    "two results": lambda _: ["a", "b"],
    "no result": lambda _: [],
    "a dict": lambda _: {"a": 1},
    "a tuple": lambda _: ("a",),
    "a text": lambda _: "a",
    "a tensor": lambda _: torch.ones(1),
    "nothing": lambda _: None,
    # status and headers
    "status 201": lambda context: set_status(context, 201, "Made"),
    "status without phrase": lambda context: set_status(context, 203),
    "status 404": lambda context: set_status(context, 404, "Not here"),
    "status 507": lambda context: set_status(context, 507, "full"),
    "status 599": lambda context: set_status(context, 599, "own"),
    "header": lambda context: set_header(context, "X-Answer", "42"),
    "header in another case": lambda context: set_header(context, "x-aNSWER", "a; b=c"),
    "header with an umlaut": lambda context: set_header(context, "X-Answer", "grün"),
    "request id": lambda context: set_header(context, "x-request-id", "mine"),
    "cache header": lambda context: set_header(context, "Cache-Control", "max-age=60"),
    "content type": lambda context: set_content_type(context, "text/csv"),
    "content type header": lambda context: set_header(context, "Content-Type", "text/plain"),
    "everything": set_everything,
    "processor": report_status,
    # exceptions
    "ValueError": lambda _: fail(ValueError("a secret")),
    "KeyError": lambda _: fail(KeyError("a")),
    "MemoryError": lambda _: fail(MemoryError("no more")),
    "RuntimeError": lambda _: fail(RuntimeError("device-side assert")),
    "CUDA": lambda _: fail(RuntimeError("CUDA out of memory")),
    "CUDA in a ValueError": lambda _: fail(ValueError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED")),
    "PredictionException": lambda _: fail(PredictionException("said so")),
    "PredictionException 404": lambda _: fail(PredictionException("not here", 404)),
    "PredictionException 413": lambda _: fail(PredictionException("too large", 413)),
    "PredictionException 418": lambda _: fail(PredictionException("a teapot", 418)),
    "PredictionException 422": lambda _: fail(PredictionException("no entity", 422)),
    "PredictionException 429": lambda _: fail(PredictionException("too many", 429)),
    "PredictionException 503": lambda _: fail(PredictionException("later", 503)),
    "PredictionException 599": lambda _: fail(PredictionException("own", 599)),
    "PredictionException 200": lambda _: fail(PredictionException("fine", 200)),
    "PredictionException without text": lambda _: fail(PredictionException("", 500)),
    "PredictionException with an umlaut": lambda _: fail(PredictionException("größer", 400)),
    # the worker's end
    "exit": lambda _: sys.exit(3),
}
