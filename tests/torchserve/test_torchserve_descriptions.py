"""The OpenAPI documents: the same operations under the same ids, in words of our own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from comparison import differences
from pairs import Endpoints, Pair
from wire_exchange import Answer, Request

Operations = dict[tuple[str, str], str]

# Of one model TorchServe describes a path that it does not have, and others without the model's name.
NO_SUCH_PATH = "/prediction/mirror"
# Comes with the metrics API.
NOT_YET = "/metrics"

DOCUMENTS: dict[str, Callable[[Endpoints], Answer]] = {
    "inference": lambda server: server.infer(Request("OPTIONS", "/")),
    "inference, old path": lambda server: server.infer(Request("GET", "/api-description")),
    "inference, a model": lambda server: server.infer(Request("OPTIONS", "/predictions/mirror")),
    "management": lambda server: server.manage(Request("OPTIONS", "/")),
    "management, old path": lambda server: server.manage(Request("GET", "/api-description")),
    "management, a model": lambda server: server.manage(Request("OPTIONS", "/models/mirror")),
}


def operations(answer: Answer) -> Operations:
    paths = json.loads(answer.body)["paths"]
    return {
        (path.replace("{model_name}", "mirror"), method): operation["operationId"]
        for path, methods in paths.items()
        for method, operation in methods.items()
        if path not in (NO_SUCH_PATH, NOT_YET)
    }


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_same_operations(pair: Pair, name: str) -> None:
    theirs, ours = pair.both(DOCUMENTS[name])
    assert [found for found in differences(theirs, ours) if not found.startswith("body")] == []
    our_ids = operations(ours)
    for place, operation_id in operations(theirs).items():
        # Theirs are not unique: docs/compatibility.md, `operationId` of the `/v1` and `/v2` paths.
        assert our_ids[place] == operation_id or place[0].startswith(("/v1", "/v2"))
    assert len(set(our_ids.values())) == len(our_ids) or "model" in name
