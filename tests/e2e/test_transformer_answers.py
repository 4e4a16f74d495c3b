"""Every task through the real server, one worker and three, against plain transformers and Captum.

Requests come all at once, so that batches form; each caller must get the answer to its own text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from captum.attr import LayerIntegratedGradients, LLMGradientAttribution, TextTokenInput
from servers import Server, Servers, together
from transformer_samples import CONTEXT, SENTENCES

from archiver.pack import PackRequest, pack

QUESTIONS = ["What is nice?", "Where is it a beautiful day?", "Who said so?"]
LABELS = [f"LABEL_{number}" for number in range(5)]
TOLERANCE = 1e-4
MODEL_CONFIG: dict[str, Any] = {"batchSize": 8, "maxBatchDelay": 50}


@dataclass(frozen=True)
class Case:
    """One task: how its model is made and served, what is asked, and what plain libraries answer."""

    mode: str
    architecture: str
    head: str
    changes: dict[str, Any]
    handler: dict[str, Any]
    bodies: list[Any]
    predicted: Callable[[Path, Any], Any]
    explained: Callable[[Path, Any], dict[str, Any]] | None


def loaded(folder: Path, auto_class: Any) -> tuple[Any, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return auto_class.from_pretrained(folder).eval(), tokenizer


def gradients(model: Any, tokenizer: Any, ids: torch.Tensor, output: int, target: Any) -> dict[str, Any]:
    """Layer integrated gradients on the embeddings; baseline: padding between the special tokens."""
    special = torch.tensor(tokenizer.get_special_tokens_mask(ids[0].tolist(), already_has_special_tokens=True)).bool()
    baseline = torch.where(special, ids[0], torch.full_like(ids[0], tokenizer.pad_token_id))[None]
    layer = model.base_model.embeddings
    method = LayerIntegratedGradients(lambda x: model(x, attention_mask=torch.ones_like(x))[output], layer)
    attributions, delta = method.attribute(ids, baselines=baseline, target=target, return_convergence_delta=True)
    sums = attributions.sum(-1)[0]
    return {"importances": (sums / sums.norm()).tolist(), "delta": float(delta)}


def sequence_prediction(folder: Path, text: str) -> dict[str, Any]:
    model, tokenizer = loaded(folder, transformers.AutoModelForSequenceClassification)
    with torch.no_grad():
        probabilities = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
    named = dict(zip(LABELS, probabilities.tolist(), strict=False))
    return {"label": LABELS[int(probabilities.argmax())], "score": float(probabilities.max()), "probabilities": named}


def sequence_explanation(folder: Path, text: str) -> dict[str, Any]:
    model, tokenizer = loaded(folder, transformers.AutoModelForSequenceClassification)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    predicted = int(model(ids).logits.argmax())
    words = tokenizer.convert_ids_to_tokens(ids[0])
    return {"words": words, **gradients(model, tokenizer, ids, 0, predicted)}


def token_prediction(folder: Path, text: str) -> list[list[str]]:
    model, tokenizer = loaded(folder, transformers.AutoModelForTokenClassification)
    encoded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        labels = model(**encoded).logits[0].argmax(-1).tolist()
    pairs = zip(tokenizer.convert_ids_to_tokens(encoded["input_ids"][0]), labels, strict=True)
    return [[token, LABELS[label]] for token, label in pairs if token not in ("[CLS]", "[SEP]")]


def token_explanation(folder: Path, body: dict[str, Any]) -> dict[str, Any]:
    model, tokenizer = loaded(folder, transformers.AutoModelForTokenClassification)
    ids = tokenizer(body["text"], return_tensors="pt")["input_ids"]
    words = tokenizer.convert_ids_to_tokens(ids[0])
    return {"words": words, **gradients(model, tokenizer, ids, 0, tuple(body["target"]))}


def answer_span(model: Any, encoded: Any) -> tuple[int, int, float]:
    """The best pair of start and end within the context, by exhaustive search."""
    inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        output = model(**inputs)
    inside = [at for at, part in enumerate(encoded.sequence_ids(0)) if part == 1]
    starts, ends = output.start_logits[0], output.end_logits[0]
    pairs = [(float(starts[a] + ends[b]), a, b) for a in inside for b in inside if a <= b]
    _, start, end = max(pairs)
    score = starts[inside].softmax(0)[inside.index(start)] * ends[inside].softmax(0)[inside.index(end)]
    return start, end, float(score)


def question_prediction(folder: Path, body: dict[str, str]) -> dict[str, Any]:
    model, tokenizer = loaded(folder, transformers.AutoModelForQuestionAnswering)
    encoded = tokenizer(body["question"], body["context"], return_tensors="pt", return_offsets_mapping=True)
    start, end, score = answer_span(model, encoded)
    first, last = int(encoded["offset_mapping"][0][start][0]), int(encoded["offset_mapping"][0][end][1])
    return {"answer": body["context"][first:last], "score": score, "start": first, "end": last}


def question_explanation(folder: Path, body: dict[str, str]) -> dict[str, Any]:
    model, tokenizer = loaded(folder, transformers.AutoModelForQuestionAnswering)
    encoded = tokenizer(body["question"], body["context"], return_tensors="pt")
    ids = encoded["input_ids"]
    start, end, _ = answer_span(model, encoded)
    of_start = gradients(model, tokenizer, ids, 0, start)
    of_end = gradients(model, tokenizer, ids, 1, end)
    return {
        "words": tokenizer.convert_ids_to_tokens(ids[0]),
        "importances_answer_start": of_start["importances"],
        "importances_answer_end": of_end["importances"],
        "delta_start": of_start["delta"],
        "delta_end": of_end["delta"],
    }


def generated(folder: Path, body: dict[str, Any]) -> str:
    model, tokenizer = loaded(folder, transformers.AutoModelForCausalLM)
    ids = tokenizer(body["text"], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        output = model.generate(ids, do_sample=False, max_new_tokens=12, pad_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(output[0], skip_special_tokens=True)


def generation_explanation(folder: Path, body: dict[str, Any]) -> dict[str, Any]:
    model, tokenizer = loaded(folder, transformers.AutoModelForCausalLM)
    tokenizer.pad_token = tokenizer.eos_token
    attribution = LLMGradientAttribution(LayerIntegratedGradients(model, model.get_input_embeddings()), tokenizer)
    prompt = TextTokenInput(body["text"], tokenizer, baselines=tokenizer.pad_token_id)
    matrix = attribution.attribute(prompt, target=body["target"]).token_attr.detach()
    total = matrix.sum(0)
    return {"importances": (total / total.norm()).tolist(), "token_importances": matrix.tolist()}


def mean_vector(folder: Path, text: str) -> list[float]:
    model, tokenizer = loaded(folder, transformers.AutoModel)
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).tolist()


CASES = {
    case.mode: case
    for case in (
        Case(
            "sequence_classification",
            "bert",
            "ForSequenceClassification",
            {"num_labels": 3},
            {"output": "scores"},
            SENTENCES,
            sequence_prediction,
            sequence_explanation,
        ),
        Case(
            "token_classification",
            "bert",
            "ForTokenClassification",
            {"num_labels": 5},
            {},
            SENTENCES,
            token_prediction,
            None,
        ),
        Case(
            "question_answering",
            "distilbert",
            "ForQuestionAnswering",
            {},
            {"output": "scores"},
            [{"question": question, "context": CONTEXT} for question in QUESTIONS],
            question_prediction,
            question_explanation,
        ),
        Case(
            "text_generation",
            "gpt2",
            "LMHeadModel",
            {},
            {"generation": {"do_sample": False, "max_new_tokens": 12}},
            [{"text": text} for text in SENTENCES],
            generated,
            None,
        ),
        Case("embedding", "bert", "Model", {}, {}, SENTENCES, mean_vector, None),
    )
}


@pytest.fixture(scope="module")
def folders(model_dirs: Callable[..., Path]) -> dict[str, Path]:
    return {case.mode: model_dirs(case.architecture, case.head, **case.changes) for case in CASES.values()}


def pack_model(mode: str, folder: Path, store: Path, workers: int) -> None:
    settings = {**MODEL_CONFIG, "minWorkers": workers, "maxWorkers": workers}
    settings["handler"] = {"mode": mode, **CASES[mode].handler}
    config = store.parent / f"{mode}.yaml"
    config.write_text(yaml.safe_dump(settings))
    store.mkdir(exist_ok=True)
    others = [str(path) for path in folder.iterdir() if path.name != "model.safetensors"]
    request = PackRequest(
        mode,
        handler="transformer_handler",
        version="1.0",
        serialized_file=str(folder / "model.safetensors"),
        config_file=str(config),
        extra_files=",".join(others),
        export_path=str(store),
    )
    pack(request)


@pytest.fixture(scope="module", params=[1, 3], ids=["1 worker", "3 workers"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path]
) -> Iterator[Server]:
    servers = Servers(tmp_path_factory.mktemp("transformers"))
    for mode, folder in folders.items():
        pack_model(mode, folder, servers.archives.folder, workers=request.param)
    # One thread each: as many workers as here would otherwise fight for the cores.
    running = servers.start(models=["all"], environment={"OMP_NUM_THREADS": "1"})
    for mode in folders:
        running.wait_model_ready(mode, workers=request.param)
    yield running
    servers.close()


def ask(server: Server, verb: str, mode: str, bodies: list[Any]) -> list[Any]:
    """All bodies at once, twice each; the answers to the first round after checking that the second agrees."""

    def one(body: Any) -> Any:
        data = body if isinstance(body, str) else json.dumps(body)
        headers = {"Content-Type": "text/plain" if isinstance(body, str) else "application/json"}
        answer = server.infer("POST", f"{verb}/{mode}", data=data.encode(), headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.content.decode() if (mode, verb) == ("text_generation", "predictions") else answer.json()

    answers = together(*(lambda body=body: one(body) for body in bodies * 2))
    for first, second in zip(answers[: len(bodies)], answers[len(bodies) :], strict=True):
        assert_close(first, second)
    return answers[: len(bodies)]


def assert_close(answer: Any, expected: Any) -> None:
    """Equal in structure and text, numbers within the tolerance."""
    if isinstance(expected, dict):
        assert set(expected) <= set(answer)
        for key, value in expected.items():
            assert_close(answer[key], value)
    elif isinstance(expected, list):
        assert len(answer) == len(expected)
        for one, other in zip(answer, expected, strict=True):
            assert_close(one, other)
    elif isinstance(expected, float):
        assert answer == pytest.approx(expected, abs=TOLERANCE)
    else:
        assert answer == expected


@pytest.mark.parametrize("mode", CASES)
def test_predictions(server: Server, folders: dict[str, Path], mode: str) -> None:
    case = CASES[mode]
    for body, answer in zip(case.bodies, ask(server, "predictions", mode, case.bodies), strict=True):
        assert_close(answer, case.predicted(folders[mode], body))


@pytest.mark.parametrize("mode", [mode for mode, case in CASES.items() if case.explained])
def test_explanations_of_what_was_predicted(server: Server, folders: dict[str, Path], mode: str) -> None:
    case = CASES[mode]
    assert case.explained is not None
    for body, answer in zip(case.bodies, ask(server, "explanations", mode, case.bodies), strict=True):
        assert_close(answer, case.explained(folders[mode], body))


def test_explanations_of_chosen_tokens(server: Server, folders: dict[str, Path]) -> None:
    bodies = [{"text": text, "target": [1, label]} for label, text in enumerate(SENTENCES)]
    for body, answer in zip(bodies, ask(server, "explanations", "token_classification", bodies), strict=True):
        assert_close(answer, token_explanation(folders["token_classification"], body))


def test_explanations_of_a_continuation(server: Server, folders: dict[str, Path]) -> None:
    bodies = [{"text": text, "target": " a fine day"} for text in SENTENCES]
    for body, answer in zip(bodies, ask(server, "explanations", "text_generation", bodies), strict=True):
        assert_close(answer, generation_explanation(folders["text_generation"], body))
