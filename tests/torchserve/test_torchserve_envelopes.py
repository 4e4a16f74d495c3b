"""Every `service_envelope`, each with a pair of servers: it is a setting of the whole server."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from comparison import Case, Difference
from pairs import Pair, side_by_side
from peer_archives import Archive, pack_all
from servers import together
from wire_exchange import Request

JSON = "application/json"
ENVELOPES = ("body", "json", "kserve", "kservev2")
ARCHIVES = {
    "body": Archive("instances", "instances"),
    "json": Archive("instances", "instances"),
    "kserve": Archive("instances", "instances"),
    "kservev2": Archive("instances", "tensors"),
}


@pytest.fixture(scope="module")
def pairs(torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """One pair of servers per envelope, started at the same time."""
    folder = tmp_path_factory.mktemp("envelopes")

    with ExitStack() as running:

        def start(envelope: str) -> Pair:
            archive, place = ARCHIVES[envelope], folder / envelope
            pack_all([archive], place / "store", place / "inputs")
            config = {"service_envelope": envelope}
            return running.enter_context(side_by_side(place, place / "store", [archive.file_name], config))

        started = together(*(lambda envelope=envelope: start(envelope) for envelope in ENVELOPES))
        yield dict(zip(ENVELOPES, started, strict=True))


def post(body: object, content_type: str = JSON, target: str = "/predictions/instances") -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", target, (("Content-Type", content_type),), (data,))


def tensors(*inputs: dict[str, object], **more: object) -> dict[str, object]:
    return {**more, "inputs": list(inputs)}


def tensor(name: str, shape: list[int], datatype: str, data: list[object]) -> dict[str, object]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


ENCODED = {"b64": base64.b64encode(b"\x00\xff").decode()}
V1 = {"instances": [1, {"a": [2]}, "x"]}
V2 = tensors(tensor("n", [2, 2], "INT64", [1, 2, 3, 4]), tensor("f", [2], "FP32", [0.5, 1.5]))
V1_PREDICT, V1_EXPLAIN = "/v1/models/instances:predict", "/v1/models/instances:explain"
V2_INFER, V2_EXPLAIN = "/v2/models/instances/infer", "/v2/models/instances/explain"

UNREADABLE = Difference("Requests that an envelope cannot read", 400)

CASES = {
    "body": [
        Case("JSON", post({"a": 1})),
        Case("data within JSON", post({"data": [1, 2], "target": 3})),
        Case("raw bytes", post(b"\x00\xff", "application/octet-stream")),
        Case("text", post(b"text", "text/plain")),
        Case("form", post(b"data=1&target=2", "application/x-www-form-urlencoded")),
        Case("form without data", post(b"a=1", "application/x-www-form-urlencoded")),
        Case("nothing", post(b"", "text/plain")),
        Case("explanation", post({"a": 1}, target="/explanations/instances")),
    ],
    "json": [
        Case("instances", post(V1)),
        Case("one instance", post({"instances": [[1, 2]]})),
        Case("no instances", post({"instances": []}), UNREADABLE),
        Case("base64", post({"instances": [ENCODED, {"image": ENCODED, "n": 1}]})),
        Case("no key", post({"inputs": [1]}), UNREADABLE),
        Case(
            "raw bytes",
            post(json.dumps(V1).encode(), "application/octet-stream"),
            Difference("`json` envelope and bytes", 200),
        ),
        Case("KServe v1", post(V1, target=V1_PREDICT)),
        Case("explanation", post(V1, target="/explanations/instances")),
    ],
    "kserve": [
        Case("predictions", post(V1)),
        Case("KServe v1 predict", post(V1, target=V1_PREDICT)),
        Case("KServe v1 explain", post(V1, target=V1_EXPLAIN)),
        Case("explanations", post(V1, target="/explanations/instances")),
        Case("bytes", post(json.dumps(V1).encode(), "application/octet-stream")),
        Case("form", post(b'data={"instances": [1]}', "application/x-www-form-urlencoded")),
        Case("no instances", post({"instances": []}), UNREADABLE),
        Case("no key", post({"inputs": [1]}, target=V1_PREDICT), UNREADABLE),
        Case("no JSON", post(b"{", target=V1_PREDICT), UNREADABLE),
        Case("KServe v2", post(V1, target=V2_INFER)),
        Case("unknown model", post(V1, target="/v1/models/nobody:predict")),
    ],
    "kservev2": [
        Case("tensors", post(V2, target=V2_INFER)),
        Case("tensors by predictions", post(V2)),
        Case("with an id", post({**V2, "id": "mine"}, target=V2_INFER)),
        Case("with a blank id", post({**V2, "id": " "}, target=V2_INFER)),
        Case("texts", post(tensors(tensor("t", [1], "BYTES", ["hello"])), target=V2_INFER)),
        Case("booleans", post(tensors(tensor("b", [2], "BOOL", [True, False])), target=V2_INFER)),
        Case("bytes", post(json.dumps(V2).encode(), "application/octet-stream", target=V2_INFER)),
        Case("explain", post(V2, target=V2_EXPLAIN)),
        Case("a wrong shape", post(tensors(tensor("n", [3], "INT64", [1, 2])), target=V2_INFER), UNREADABLE),
        Case("no inputs", post({"instances": [1]}, target=V2_INFER), UNREADABLE),
        Case("empty inputs", post(tensors(), target=V2_INFER), UNREADABLE),
        Case("no JSON", post(b"{", target=V2_INFER), UNREADABLE),
        Case("unknown model", post(V2, target="/v2/models/nobody/infer")),
    ],
}


@pytest.mark.parametrize(
    ("envelope", "case"),
    [pytest.param(name, case, id=f"{name}: {case}") for name, cases in CASES.items() for case in cases],
)
def test_same_answer(pairs: dict[str, Pair], envelope: str, case: Case) -> None:
    pairs[envelope].check_inference(case)
