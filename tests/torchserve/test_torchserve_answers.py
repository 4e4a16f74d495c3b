"""What becomes of everything a handler returns, sets and raises: the actions of `peer_handlers/answers.py`."""

from __future__ import annotations

import pytest
from comparison import Case, Difference
from pairs import Pair
from wire_exchange import Request


def answers(name: str, differs: Difference | None = None) -> Case:
    return Case(name, Request("POST", "/predictions/answers", (), (name.encode(),)), differs)


RESULTS = [
    "text",
    "empty text",
    "bytes",
    "bytearray",
    "empty bytes",
    "dict",
    "empty dict",
    "list",
    "integer",
    "zero",
    "float",
    "boolean",
    "none",
    "nan",
    "tuple",
    "integer keys",
    "tensor",
    "scalar tensor",
    "float64 of numpy",
]
UNSENDABLE = ["array", "float32 of numpy", "set", "bytes in a dict", "tensor in a dict"]
NO_LIST_OF_ONE = ["two results", "no result", "a dict", "a tuple", "a text", "a tensor", "nothing"]
STATUS_AND_HEADERS = [
    "status 201",
    "status without phrase",
    "status 404",
    "status 507",
    "status 599",
    "header",
    "header in another case",
    "request id",
    "cache header",
    "content type",
    "content type header",
    "everything",
    "processor",
]
EXCEPTIONS = [
    "an action that is none",
    "ValueError",
    "KeyError",
    "MemoryError",
    "RuntimeError",
    "CUDA",
    "CUDA in a ValueError",
    "PredictionException",
    "PredictionException 404",
    "PredictionException 413",
    "PredictionException 422",
    "PredictionException 429",
    "PredictionException 503",
    "PredictionException without text",
    "PredictionException with an umlaut",
]


DIFFERENCES = [
    answers("header with an umlaut", Difference("Header values beyond ASCII", 200, "with a header")),
    answers("PredictionException 418", Difference("Reason phrases of rare codes", 418, "a teapot")),
    answers("PredictionException 599", Difference("Reason phrases of rare codes", 599, "own")),
    answers("PredictionException 200", Difference("An exception with code 200", 200, "fine")),
]


@pytest.mark.parametrize(
    "case",
    [answers(name) for name in RESULTS + UNSENDABLE + NO_LIST_OF_ONE + STATUS_AND_HEADERS + EXCEPTIONS] + DIFFERENCES,
    ids=str,
)
def test_same_answer(pair: Pair, case: Case) -> None:
    pair.check_inference(case)


def test_an_exit_is_answered_and_the_worker_serves_on(pair: Pair) -> None:
    pair.check_inference(answers("exit", Difference("`sys.exit` in a handler", 500)))
    pair.check_inference(answers("text"))
