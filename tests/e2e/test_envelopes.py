"""Envelopes on a real server: one archive with transformer_handler answers KServe v1 and v2 and body requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
import transformers
import yaml
from captum.attr import LayerIntegratedGradients
from servers import Server, Servers, error_of, together
from transformer_samples import SENTENCES

from archiver.pack import PackRequest, pack

MODEL_CONFIG = {
    "batchSize": 4,
    "maxBatchDelay": 100,
    "batchingPolicy": "fixed",
    "handler": {"mode": "sequence_classification"},
}
# KServe's samples for BERT: the text, and its characters' codes as a tensor.
SAMPLE = "Bloomberg has reported on the economy"
SAMPLE_CODES = list(SAMPLE.encode())

# Where the greatest number of each row is.
ARGMAX = """
class Handler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"rows": len(data)}]
        return [row.index(max(row)) for row in data]
"""
ASYNC_ARGMAX = """
import asyncio


class Handler:
    def initialize(self, context):
        pass

    async def handle(self, data, context):
        await asyncio.sleep(0.01 * len(data))
        context.set_response_header(0, "rows", str(len(data)))
        return [row.index(max(row)) for row in data]
"""


@pytest.fixture(scope="module")
def folder(model_dirs: Callable[..., Path]) -> Path:
    return model_dirs("bert", "ForSequenceClassification", num_labels=5)


@pytest.fixture(scope="module")
def label_of(folder: Path) -> Callable[[str], str]:
    """What plain transformers answer."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def predict(text: str) -> str:
        with torch.no_grad():
            return model.config.id2label[int(model(**tokenizer(text, return_tensors="pt")).logits.argmax())]

    return predict


@pytest.fixture(scope="module")
def importances_of(folder: Path) -> Callable[[str, int], list[float]]:
    """What plain Captum says; baseline: padding between the special tokens."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def explain(text: str, target: int) -> list[float]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        baseline = torch.full_like(ids, tokenizer.pad_token_id)
        baseline[0, 0], baseline[0, -1] = ids[0, 0], ids[0, -1]
        method = LayerIntegratedGradients(lambda x: model(x).logits, model.bert.embeddings)
        sums = method.attribute(ids, baselines=baseline, target=target).sum(-1)[0]
        importances: list[float] = (sums / sums.norm()).tolist()
        return importances

    return explain


@pytest.fixture(scope="module")
def start(module_servers: Servers, folder: Path) -> Callable[[str], Server]:
    """Servers with one envelope each, and the same archives."""
    store = module_servers.archives.folder
    store.mkdir()
    config = store.parent / "model-config.yaml"
    config.write_text(yaml.safe_dump(MODEL_CONFIG))
    others = [str(path) for path in folder.iterdir() if path.name != "model.safetensors"]
    request = PackRequest(
        "bert",
        handler="transformer_handler",
        version="1.0",
        serialized_file=str(folder / "model.safetensors"),
        config_file=str(config),
        extra_files=",".join(others),
        export_path=str(store),
    )
    pack(request)
    module_servers.archives.pack("argmax", ARGMAX, config={"batchSize": 4, "maxBatchDelay": 100})
    module_servers.archives.pack("later", ASYNC_ARGMAX, config={"asyncCommunication": True, "batchSize": 4})
    models = {"kserve": ["all"], "kservev2": ["bert.mar"], "body": ["bert.mar"], "json": ["argmax.mar"]}
    started: dict[str, Server] = {}

    def server(envelope: str) -> Server:
        if envelope not in started:
            started[envelope] = module_servers.start(
                models=models[envelope], config={"service_envelope": envelope}, environment={"OMP_NUM_THREADS": "1"}
            )
        return started[envelope]

    return server


def v1(server: Server, body: Any, verb: str = "predict", model: str = "bert") -> requests.Response:
    return server.infer("POST", f"v1/models/{model}:{verb}", json=body)


def v2(server: Server, body: Any, verb: str = "infer") -> requests.Response:
    return server.infer("POST", f"v2/models/bert/{verb}", json=body)


def tensor(data: Any, shape: Any, datatype: str = "BYTES", name: str = "input-0") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


# --- KServe v1 ---


def test_kserve_predictions(start: Callable[[str], Server], label_of: Callable[[str], str]) -> None:
    server = start("kserve")
    for instances, texts in (
        ([{"data": SAMPLE, "target": 0}], [SAMPLE]),
        ([SAMPLE], [SAMPLE]),
        ([{"text": text} for text in SENTENCES], SENTENCES),
        ([json.dumps({"text": SENTENCES[1], "target": 1}), SENTENCES[2]], SENTENCES[1:3]),
    ):
        answer = v1(server, {"instances": instances})
        assert (answer.status_code, answer.json()) == (200, {"predictions": [label_of(text) for text in texts]})


def test_kserve_requests_of_a_batch_get_their_own_answers(
    start: Callable[[str], Server], label_of: Callable[[str], str]
) -> None:
    server = start("kserve")
    bodies = [{"instances": SENTENCES[: count + 1]} for count in range(4)]
    answers = together(*(lambda body=body: v1(server, body) for body in bodies))
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.json() == {"predictions": [label_of(text) for text in body["instances"]]}


def test_kserve_explanations(start: Callable[[str], Server], importances_of: Callable[[str, int], list[float]]) -> None:
    instances = [{"data": SAMPLE, "target": 0}, {"text": SENTENCES[1], "target": 3}]
    answer = v1(start("kserve"), {"instances": instances}, "explain").json()
    assert list(answer) == ["explanations"]
    first, second = answer["explanations"]
    assert first["importances"] == pytest.approx(importances_of(SAMPLE, 0), abs=1e-4)
    assert second["importances"] == pytest.approx(importances_of(SENTENCES[1], 3), abs=1e-4)
    assert first["words"][1:3] == ["bloomberg", "has"]


def test_kserve_bad_requests_do_their_neighbours_no_harm(
    start: Callable[[str], Server], label_of: Callable[[str], str]
) -> None:
    server = start("kserve")
    bad = {"none": {"inputs": [SAMPLE]}, "empty": {"instances": [""]}, "text": "not an object"}
    messages = {"none": "found the keys ['inputs']", "empty": "the text is empty", "text": "not valid JSON"}
    calls = [lambda body=body: v1(server, body) for body in [*bad.values(), {"instances": [SAMPLE]}]]
    *refused, good = together(*calls)
    for answer, message in zip(refused, messages.values(), strict=True):
        code, _, text = error_of(answer)
        assert code == 400
        assert message in text
    assert good.json() == {"predictions": [label_of(SAMPLE)]}


def test_the_plain_routes_are_enveloped_as_well(start: Callable[[str], Server], label_of: Callable[[str], str]) -> None:
    body = json.dumps({"instances": [SAMPLE]}).encode()
    assert start("kserve").predict("bert", body).json() == {"predictions": [label_of(SAMPLE)]}


def test_coroutines_answer_through_an_envelope(start: Callable[[str], Server]) -> None:
    server = start("kserve")
    bodies = [{"instances": [[0, 1], [1, 0]]}, {"instances": [[0, 0, 5]]}, {"rows": []}]
    first, second, bad = together(*(lambda body=body: v1(server, body, model="later") for body in bodies))
    assert first.json() == {"predictions": [1, 0]}
    assert first.headers["rows"] == "2"
    assert second.json() == {"predictions": [2]}
    assert error_of(bad)[0] == 400


# --- KServe v2 ---


def test_kservev2_answers_in_the_protocol(start: Callable[[str], Server], label_of: Callable[[str], str]) -> None:
    body = {"id": "d3b15cad", "inputs": [tensor([SAMPLE], [1])]}
    answer = v2(start("kservev2"), body)
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "id": "d3b15cad",
            "model_name": "bert",
            "model_version": "1.0",
            "outputs": [{"name": "input-0", "datatype": "BYTES", "data": [label_of(SAMPLE)], "shape": [1]}],
        },
    )


@pytest.mark.parametrize(
    ("inputs", "texts"),
    [
        ([tensor(SAMPLE_CODES, [1, 37], "INT64")], [[SAMPLE]]),
        ([tensor(SAMPLE_CODES, [37], "UINT8")], [[SAMPLE]]),
        ([tensor(SAMPLE, -1)], [[SAMPLE]]),
        ([tensor(SENTENCES, [4])], [SENTENCES]),
        ([tensor([SENTENCES[0]], [1], name="a"), tensor(SENTENCES[1:3], [2, 1], name="b")], [[0], [1, 2]]),
    ],
)
def test_kservev2_inputs(
    start: Callable[[str], Server], label_of: Callable[[str], str], inputs: Any, texts: list[list[Any]]
) -> None:
    answer = v2(start("kservev2"), {"inputs": inputs})
    outputs = answer.json()["outputs"]
    assert [output["name"] for output in outputs] == [given["name"] for given in inputs]
    expected = [[text if isinstance(text, str) else SENTENCES[text] for text in part] for part in texts]
    assert [output["data"] for output in outputs] == [[label_of(text) for text in part] for part in expected]
    assert answer.json()["id"] == answer.headers["x-request-id"]


def test_kservev2_requests_of_a_batch_get_their_own_answers(
    start: Callable[[str], Server], label_of: Callable[[str], str]
) -> None:
    server = start("kservev2")
    bodies = [{"id": text, "inputs": [tensor([text], [1])]} for text in SENTENCES]
    *answers, bad = together(
        *(lambda body=body: v2(server, body) for body in [*bodies, {"inputs": [tensor(1, 1, "X")]}])
    )
    for text, answer in zip(SENTENCES, answers, strict=True):
        assert answer.json()["id"] == text
        assert answer.json()["outputs"][0]["data"] == [label_of(text)]
    code, _, message = error_of(bad)
    assert code == 400
    assert "datatype 'X' is not known" in message


def test_kservev2_explanations(
    start: Callable[[str], Server], importances_of: Callable[[str, int], list[float]]
) -> None:
    given = {**tensor([SAMPLE], [1]), "parameters": {"target": 2}}
    (output,) = v2(start("kservev2"), {"inputs": [given]}, "explain").json()["outputs"]
    assert output["datatype"] == "BYTES"
    assert output["data"][0]["importances"] == pytest.approx(importances_of(SAMPLE, 2), abs=1e-4)


# --- body and json ---


def test_body(
    start: Callable[[str], Server],
    label_of: Callable[[str], str],
    importances_of: Callable[[str, int], list[float]],
) -> None:
    server = start("body")
    request = {"data": SAMPLE, "target": 0}
    assert server.infer("POST", "predictions/bert", json=request).text == label_of(SAMPLE)
    explanation = server.infer("POST", "explanations/bert", json=request).json()
    assert explanation["importances"] == pytest.approx(importances_of(SAMPLE, 0), abs=1e-4)


def test_json(start: Callable[[str], Server]) -> None:
    server = start("json")
    rows = [[[1, 2], [4, 3]], [[0, 9, 1]], [[7]]]
    answers = together(*(lambda r=r: server.infer("POST", "predictions/argmax", json={"instances": r}) for r in rows))
    assert [answer.text for answer in answers] == [
        '{"predictions": [1, 0]}',
        '{"predictions": [1]}',
        '{"predictions": [0]}',
    ]


@pytest.mark.parametrize("envelope", ["json", "kserve"])
def test_descriptions_are_no_requests_in_an_envelope(start: Callable[[str], Server], envelope: str) -> None:
    description = start(envelope).manage("GET", "models/argmax?customized=true").json()
    assert description[0]["customizedMetadata"] == {"rows": 1}
