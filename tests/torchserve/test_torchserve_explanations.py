"""A handler on BaseHandler: predictions, explanations and how they are told apart."""

from __future__ import annotations

import json

import pytest
from comparison import Case
from pairs import Pair
from wire_exchange import Request


def ask(target: str, document: object, *headers: tuple[str, str]) -> Request:
    return Request("POST", target, (("Content-Type", "application/json"), *headers), (json.dumps(document).encode(),))


CASES = [
    Case("prediction", ask("/predictions/insights", [1, 2])),
    Case("explanation", ask("/explanations/insights", [1, 2])),
    Case("explanation with a target in the body", ask("/explanations/insights", {"values": [1, 2], "target": 1})),
    Case("explanation of a version", ask("/explanations/insights/1.0", [1, 2])),
    Case("KServe v1 prediction", ask("/v1/models/insights:predict", [1, 2])),
    Case("KServe v1 explanation", ask("/v1/models/insights:explain", [1, 2])),
    Case("KServe v2 explanation", ask("/v2/models/insights/explain", [1, 2])),
    Case("invocations predicts", ask("/invocations?model_name=insights", [1, 2])),
    Case("the client's explain on a route that sets none", ask("/models/insights/invoke", [1, 2], ("explain", "True"))),
    Case("the client's describe", ask("/predictions/insights", [1, 2], ("describe", "True"))),
    Case("input that is none", ask("/predictions/insights", ["x"])),
    Case("a handler without get_insights", ask("/explanations/answers", "text")),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_answer(pair: Pair, case: Case) -> None:
    pair.check_inference(case)
