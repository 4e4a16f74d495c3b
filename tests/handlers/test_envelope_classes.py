"""Envelopes around small entry points, and around the transformer handler. Expected forms are TorchServe's."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformer_samples import SENTENCES

from handlers.context import Context, RequestProcessor
from handlers.envelopes import wrap
from handlers.envelopes.base import Entry
from handlers.errors import ModelLoadError, PredictionException
from handlers.metrics import MetricSample, MetricsRecorder

MANIFEST = {"model": {"modelName": "m", "modelVersion": "2.0"}}


def context_of(*headers: dict[str, str], samples: list[MetricSample] | None = None) -> Context:
    """A context about one request per argument."""
    metrics = MetricsRecorder("m", [].append if samples is None else samples.append)
    context = Context("m", ".", MANIFEST, 8, None, "1.0", metrics=metrics)
    context.request_ids = {index: f"request-{index}" for index in range(len(headers))}
    context.request_processor = [RequestProcessor(header) for header in headers]
    metrics.set_request_ids(context.request_ids)
    return context


def answers(envelope: str, entry: Entry, *bodies: Any, **header: str) -> list[Any]:
    """The answers to a batch of JSON bodies."""
    return wrap(envelope, entry)([{"body": body} for body in bodies], context_of(*[header] * len(bodies)))


def rows_seen(envelope: str, body: Any) -> Any:
    seen: list[Any] = []
    answers(envelope, lambda data, context: seen.append(data) or [0] * len(data), body)
    return seen[0]


def argmax(data: list[Any], context: Context) -> list[int]:
    return [int(np.argmax(row)) for row in data]


def refused(envelope: str, *bodies: Any, entry: Entry = argmax) -> str:
    with pytest.raises(PredictionException) as caught:
        answers(envelope, entry, *bodies)
    assert caught.value.error_code == 400
    return caught.value.message


# --- all of them ---


def test_unknown_envelopes_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelLoadError, match="'soap' is not known; known: body, json, kserve, kservev2"):
        wrap("soap", argmax)


@pytest.mark.parametrize("envelope", ["body", "json", "kserve", "kservev2"])
def test_empty_batches_pass_untouched(envelope: str) -> None:
    assert wrap(envelope, lambda data, context: data)([], context_of()) == []


@pytest.mark.parametrize("envelope", ["body", "json", "kserve", "kservev2"])
def test_descriptions_pass_untouched(envelope: str) -> None:
    entry = wrap(envelope, lambda data, context: [{"rows": data}])
    assert entry([{}], context_of({"describe": "True"})) == [{"rows": [{}]}]


@pytest.mark.parametrize(
    ("envelope", "body", "answer"),
    [
        ("body", [1, 2], "a"),
        ("json", {"instances": [1]}, '{"predictions": ["a"]}'),
        ("kserve", {"instances": [1]}, {"predictions": ["a"]}),
    ],
)
def test_a_coroutine_function_answers_in_its_own_time(envelope: str, body: Any, answer: Any) -> None:
    async def entry(data: list[Any], context: Context) -> list[str]:
        await asyncio.sleep(0)
        return ["a"] * len(data)

    async def both() -> Any:
        wrapped = wrap(envelope, entry)
        calls = [wrapped([{"body": body}] * count, context_of(*[{}] * count)) for count in (1, 2)]
        return await asyncio.gather(*calls)

    assert asyncio.run(both()) == [[answer], [answer, answer]]


def test_overlapping_calls_keep_their_own_instances() -> None:
    async def entry(data: list[Any], context: Context) -> list[Any]:
        await asyncio.sleep(0)
        return data

    async def both() -> Any:
        wrapped = wrap("json", entry)
        bodies = [{"instances": [1, 2, 3]}, {"instances": [4]}]
        return await asyncio.gather(*(wrapped([{"body": body}], context_of({})) for body in bodies))

    assert asyncio.run(both()) == [['{"predictions": [1, 2, 3]}'], ['{"predictions": [4]}']]


# --- body ---


def test_body_hands_over_the_values_themselves() -> None:
    seen = []
    entry = wrap("body", lambda data, context: seen.append(data) or ["answer"] * len(data))
    rows = [{"data": "a", "body": "b"}, {"body": {"data": "c", "target": 1}}, {"data": "", "body": bytearray(b"d")}, {}]
    assert entry(rows, context_of({}, {}, {}, {})) == ["answer"] * 4
    assert seen == [["a", {"data": "c", "target": 1}, bytearray(b"d"), None]]


# --- json ---


def test_json_answers_as_text() -> None:
    body = {"instances": [[1.0, 2.0], [4.0, 3.0]]}
    assert answers("json", argmax, body) == ['{"predictions": [1, 0]}']


def test_json_joins_the_instances_of_a_batch_and_splits_the_answers() -> None:
    calls = []
    entry = wrap("json", lambda data, context: calls.append(list(data)) or data)
    rows = [{"body": {"instances": [1, 2]}}, {"data": {"instances": [3]}}, {"instances": [4, 5]}]
    assert entry(rows, context_of({}, {}, {})) == [
        '{"predictions": [1, 2]}',
        '{"predictions": [3]}',
        '{"predictions": [4, 5]}',
    ]
    assert calls == [[1, 2, 3, 4, 5]]


def test_json_decodes_base64_alone_and_within_an_object() -> None:
    image = {"b64": base64.b64encode(b"\x00\xff").decode()}
    assert rows_seen("json", {"instances": [image, {"image": image, "n": 1}, "b64"]}) == [
        b"\x00\xff",
        {"image": b"\x00\xff", "n": 1},
        "b64",
    ]


def test_json_of_one_request_answers_whatever_came_back() -> None:
    body = {"instances": [1, 2, 3]}
    assert answers("json", lambda data, context: ["all"], body) == ['{"predictions": ["all"]}']


def test_json_of_several_requests_needs_a_result_for_each_instance() -> None:
    with pytest.raises(PredictionException, match=r"number of batch response mismatched.* 3 instances .* 1 results"):
        answers("json", lambda data, context: ["all"], {"instances": [1, 2]}, {"instances": [3]})


# --- kserve ---


def test_kserve_predictions_and_explanations() -> None:
    body = {"instances": [[1.0, 2.0], [4.0, 3.0]]}
    assert answers("kserve", argmax, body, explain="False") == [{"predictions": [1, 0]}]
    assert answers("kserve", argmax, body) == [{"predictions": [1, 0]}]
    assert answers("kserve", argmax, body, explain="True") == [{"explanations": [1, 0]}]
    assert answers("kserve", argmax, bytearray(json.dumps(body).encode())) == [{"predictions": [1, 0]}]


def test_kserve_takes_whatever_the_handler_returns() -> None:
    body = {"instances": [1, 2]}
    for result in (["one for all"], {"a": 1}, []):
        assert answers("kserve", lambda data, context, result=result: result, body) == [{"predictions": result}]
    with pytest.raises(PredictionException, match="Invalid model predict output") as caught:
        answers("kserve", lambda data, context: None, body)
    assert caught.value.error_code == 503


@pytest.mark.parametrize("envelope", ["kserve", "kservev2"])
def test_each_request_of_a_batch_is_a_call_about_it_alone(envelope: str) -> None:
    sent, samples = [], []
    context = context_of({"explain": "False", "n": "0"}, {"explain": "False", "n": "1"}, samples=samples)
    context.send_chunk = lambda index, value: sent.append((index, value))

    def entry(data: list[Any], given: Context) -> list[Any]:
        assert given is context
        given.cache = getattr(given, "cache", 0) + len(data)
        given.set_response_status(code=201 + given.cache, idx=0)
        given.set_response_header(0, "seen", str(given.get_request_header(0, "n")))
        given.send_chunk(0, data[0])
        given.metrics.add_counter("Calls", 1)
        return [given.request_ids, len(given.request_processor)]

    tensor = {"name": "x", "shape": [1], "datatype": "BYTES", "data": ["b"]}
    bodies = {"kserve": [{"instances": ["a"]}, {"instances": ["b", "c"]}], "kservev2": [{"inputs": [tensor]}] * 2}
    found = wrap(envelope, entry)([{"body": body} for body in bodies[envelope]], context)
    assert "'request-0'" in str(found[0])
    assert "'request-1'" in str(found[1])
    assert [processor.get_response_header("seen") for processor in context.request_processor] == ["0", "1"]
    assert context.get_response_status(0)[0] == 202
    assert [index for index, _ in sent] == [0, 1]
    assert [sample.request_id for sample in samples] == ["request-0", "request-1"]
    assert context.request_ids == context.metrics.request_ids == {0: "request-0", 1: "request-1"}
    assert not hasattr(context, "input_names")


def test_the_context_is_whole_again_after_an_error() -> None:
    context = context_of({}, {})

    def broken(data: list[Any], context: Context) -> Any:
        raise ZeroDivisionError

    async def broken_later(data: list[Any], context: Context) -> Any:
        raise ZeroDivisionError

    rows = [{"body": {"instances": [1]}}] * 2
    with pytest.raises(ZeroDivisionError):
        wrap("kserve", broken)(rows, context)
    assert len(context.request_processor) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(wrap("kserve", broken_later)(rows, context))
    assert context.request_ids == {0: "request-0", 1: "request-1"}


def test_bad_input_costs_nobody_a_run_of_the_model() -> None:
    calls: list[Any] = []
    refused("kserve", {"instances": [1]}, {}, entry=lambda data, context: calls.append(data) or data)
    assert calls == []


# --- kservev2 ---


def tensor(data: Any, shape: Any, datatype: str = "INT64", name: str = "input-0") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def test_kservev2_answer() -> None:
    body = {"id": "d3b15cad", "inputs": [tensor([66, 108, 111, 111, 109], [5])]}
    assert rows_seen("kservev2", body) == body["inputs"]
    assert answers("kservev2", lambda data, context: [[2]], body) == [
        {
            "id": "d3b15cad",
            "model_name": "m",
            "model_version": "2.0",
            "outputs": [{"name": "input-0", "datatype": "INT64", "data": [2], "shape": [1]}],
        }
    ]


@pytest.mark.parametrize("given", [{}, {"id": None}, {"id": ""}, {"id": "  "}])
def test_kservev2_id_of_the_request_where_the_client_gave_none(given: dict[str, Any]) -> None:
    body = {**given, "inputs": [tensor([1], [1])], "parameters": None, "model_name": "unknown keys are no harm"}
    assert answers("kservev2", lambda data, context: [1], body)[0]["id"] == "request-0"


def test_kservev2_tells_the_handler_names_and_id_while_it_runs() -> None:
    seen = []
    body = {"id": "mine", "inputs": [tensor([1], [1], name="a"), tensor([2], [1], name="b")]}
    answers("kservev2", lambda data, context: seen.append((context.input_names, context.input_request_id)) or [], body)
    assert seen == [(["a", "b"], "mine")]


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (tensor([1, 2, 3, 4], [2, 2]), [[1, 2], [3, 4]]),
        (tensor([[1, 2], [3, 4]], [4]), [1, 2, 3, 4]),
        (tensor([1, 2, 3, 4], [2, -1], "FP32"), [[1, 2], [3, 4]]),
        (tensor([0.1, 2], 2, "FP64"), [0.1, 2.0]),
        (tensor([True, False], [1, 2], "BOOL"), [[True, False]]),
        (tensor(["a"], [1], "BYTES"), "a"),
        (tensor("a text", -1, "BYTES"), "a text"),
        (tensor([["a"], ["b"]], [2, 1], "BYTES"), ["a", "b"]),
    ],
)
def test_kservev2_data(given: dict[str, Any], seen: Any) -> None:
    assert rows_seen("kservev2", {"inputs": [given]}) == [{**given, "data": seen}]


@pytest.mark.parametrize(
    ("result", "datatype", "data"),
    [
        ([[1, 2], [3, 4]], "INT64", [1, 2, 3, 4]),
        (0.5, "FP64", [0.5]),
        (True, "BOOL", [True]),
        ("Accepted", "BYTES", ["Accepted"]),
        (["a", "b"], "BYTES", ["a", "b"]),
        ({"label": "a", "score": 0.5}, "BYTES", [{"label": "a", "score": 0.5}]),
        ([["a"], ["b", "c"]], "BYTES", [["a"], ["b", "c"]]),
        (np.array([1, 2], dtype="uint8"), "UINT8", [1, 2]),
        (np.array([[1.5]], dtype="float16"), "FP16", [1.5]),
        (np.array([1.5], dtype="float32"), "FP32", [1.5]),
    ],
)
def test_kservev2_outputs(result: Any, datatype: str, data: list[Any]) -> None:
    (answer,) = answers("kservev2", lambda rows, context: [result], {"inputs": [tensor([1], [1])]})
    assert answer["outputs"] == [{"name": "input-0", "datatype": datatype, "data": data, "shape": [len(data)]}]
    json.dumps(answer)


def test_kservev2_names_outputs_after_inputs() -> None:
    body = {"inputs": [tensor([1], [1], name="a"), tensor([1], [1], name="b")]}
    (answer,) = answers("kservev2", lambda rows, context: [1, 2, 3], body)
    assert [output["name"] for output in answer["outputs"]] == ["a", "b", "output-2"]


@pytest.mark.parametrize("result", [{"a": 1}, "text", [b"bytes"]])
def test_kservev2_results_without_a_form_in_the_protocol(result: Any) -> None:
    with pytest.raises(PredictionException, match=r"^Invalid model predict output|^Prediction failed") as caught:
        answers("kservev2", lambda rows, context: result, {"inputs": [tensor([1], [1])]})
    assert caught.value.error_code == 503


# --- bad input ---


@pytest.mark.parametrize("envelope", ["json", "kserve", "kservev2"])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (bytearray(b"{broken"), "not valid JSON"),
        (bytearray(b"\xff"), "not valid JSON"),
        (bytearray(b""), "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (None, "expected a JSON object, got NoneType"),
        ([1], "expected a JSON object, got list"),
        (bytearray(b"5"), "expected a JSON object, got int"),
        ({}, r"sent as application/json; found the keys []"),
        ({"other": 1}, r"sent as application/json; found the keys ['other']"),
        ({"instances": {"a": 1}, "inputs": {"a": 1}}, "must be a list, got dict"),
        ({"instances": [], "inputs": []}, "is empty"),
    ],
)
def test_bodies_that_are_not_in_the_envelope(envelope: str, body: Any, message: str) -> None:
    assert message in refused(envelope, body)


@pytest.mark.parametrize("envelope", ["json", "kserve", "kservev2"])
def test_a_form_is_told_to_be_json(envelope: str) -> None:
    with pytest.raises(PredictionException, match="sent as application/json"):
        wrap(envelope, argmax)([{'{"instances": [1]}': bytearray()}], context_of({}))


@pytest.mark.parametrize("text", ["abc", 5, None])
def test_json_base64_that_is_none(text: Any) -> None:
    assert "b64 must be base64 text" in refused("json", {"instances": [{"b64": text}]})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", "an input must be a JSON object, got str"),
        ({"shape": [1], "data": [1]}, "input None has no name, datatype"),
        (tensor([1, 2, 3], [2, 2]), "input 'input-0': shape [2, 2] does not fit its 3 values"),
        (tensor([1], ["a"]), "input 'input-0': shape ['a'] does not fit its 1 values"),
        (tensor([1], [1], "FLOAT"), "datatype 'FLOAT' is not known; known: BOOL, UINT8"),
        (tensor([1], [1], {}), "datatype {} is not known"),  # type: ignore[arg-type]
        (tensor(["a"], [1]), "data must hold numbers, found text; text has the datatype BYTES"),
        (tensor([[1], [2, 3]], [3]), "input 'input-0': "),
        (tensor([], [0], "BYTES"), "data is empty"),
    ],
)
def test_kservev2_inputs_that_are_wrong(given: Any, message: str) -> None:
    assert message in refused("kservev2", {"inputs": [given]})


# --- around the transformer handler ---


@pytest.fixture
def classifier(model_dirs: Callable[..., Any], serve: Callable[..., Any]) -> Any:
    return serve(model_dirs("bert", "ForSequenceClassification", num_labels=3), mode="sequence_classification")


def test_explanation_request_in_a_json_body(classifier: Any) -> None:
    """The original's `bert_ts.json` with service_envelope=body."""
    expected = classifier.explain({"text": SENTENCES[0], "target": 0})
    entry = wrap("body", classifier.handler.handle)
    rows = [{"body": {"data": SENTENCES[0], "target": 0}}, {"body": bytearray(SENTENCES[0], "utf-8")}]
    assert entry(rows[:1], classifier.context) == [expected]
    classifier.context.request_processor = None
    assert entry(rows, classifier.context) == classifier.predict_batch([SENTENCES[0]] * 2)
