"""`handler: {dtype: ...}`: the type of the weights, and answers that stay as accurate as it allows."""

from __future__ import annotations

import json

import pytest
import torch
from test_sequence_classification import LAYERS, plain_explanation, plain_logits
from transformer_samples import CONTEXT, QUESTION, SENTENCES
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from handlers.errors import ModelLoadError
from handlers.transformer import precision
from handlers.transformer.precision import choose_dtype

MODE = "sequence_classification"
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
TASKS = {
    MODE: ("ForSequenceClassification", {"num_labels": 3}, SENTENCES),
    "token_classification": ("ForTokenClassification", {"num_labels": 3}, SENTENCES),
    "question_answering": ("ForQuestionAnswering", {}, [{"question": QUESTION, "context": CONTEXT}] * 2),
    "text_generation": ("LMHeadModel", {}, SENTENCES[:2]),
    "embedding": ("Model", {}, SENTENCES),
}


def folder_of(model_dirs, mode):
    head, changes, _ = TASKS[mode]
    return model_dirs("gpt2" if mode == "text_generation" else "bert", head, **changes)


def weight_type(harness):
    return next(harness.handler.task.network.module.parameters()).dtype


@pytest.mark.parametrize("mode", TASKS)
def test_every_task_answers_and_explains_in_half_precision(mode, model_dirs, serve):
    requests = TASKS[mode][2]
    harness = serve(folder_of(model_dirs, mode), mode=mode, dtype="bfloat16", output="scores")
    assert weight_type(harness) == torch.bfloat16
    json.dumps(harness.predict_batch(requests), allow_nan=False)
    if mode != "embedding":
        json.dumps(harness.explain_batch([requests[0]]), allow_nan=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_probabilities_are_those_of_plain_transformers_in_that_type(dtype, model_dirs, serve):
    folder = folder_of(model_dirs, MODE)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    harness = serve(folder, mode=MODE, dtype=dtype, output="scores")
    for text in SENTENCES:
        with torch.no_grad():
            logits = model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).logits[0]
        found = list(harness.predict(text)["probabilities"].values())
        assert found == pytest.approx(logits.float().softmax(-1).tolist(), abs=1e-3)
        # Rounded after the softmax they would not add up to more than three digits.
        assert sum(found) == pytest.approx(1, abs=1e-6)
        assert found == pytest.approx(plain_logits(folder, text).softmax(-1).tolist(), abs=0.05)


def test_attributions_in_half_precision_are_close_to_those_of_float32(model_dirs, serve):
    folder = folder_of(model_dirs, MODE)
    harness = serve(folder, mode=MODE, dtype="bfloat16")
    answers = harness.explain_batch([{"text": text, "target": 0} for text in SENTENCES])
    for text, answer in zip(SENTENCES, answers, strict=True):
        words, importances, delta = plain_explanation(folder, text, 0, LAYERS["bert"])
        assert answer["words"] == words
        assert answer["importances"] == pytest.approx(importances, abs=0.1)
        assert answer["delta"] == pytest.approx(delta, abs=0.1)


def test_the_checkpoints_own_type_is_kept_and_can_be_replaced(model_dirs, serve, tmp_path):
    folder = folder_of(model_dirs, MODE)
    assert weight_type(serve(folder, mode=MODE)) == torch.float32
    AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert weight_type(serve(tmp_path, mode=MODE)) == torch.bfloat16
    assert weight_type(serve(tmp_path, mode=MODE, dtype="float32")) == torch.float32


def test_weights_of_another_name_are_converted_too(model_dirs, serve, tmp_path):
    folder = folder_of(model_dirs, MODE)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.config.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    harness = serve(tmp_path, mode=MODE, weights="weights.pt", dtype="bfloat16")
    assert weight_type(harness) == torch.bfloat16


@pytest.mark.parametrize("trace", [{"save_mode": "torchscript", "max_length": 16}, {"hardware": "neuron"}])
def test_a_trace_keeps_its_type(trace, model_dirs, serve):
    with pytest.raises(ModelLoadError, match="dtype: 'auto' is not allowed with a trace"):
        serve(folder_of(model_dirs, MODE), mode=MODE, dtype="auto", **trace)


@pytest.fixture
def capabilities(monkeypatch):
    """What the processor can do, instead of what this one can."""
    can: dict[str, bool] = {}
    monkeypatch.setattr(precision.torch.cpu, "get_capabilities", lambda: can, raising=False)
    monkeypatch.setattr(precision.torch.backends.mkldnn, "is_available", lambda: True)
    return can


@pytest.mark.parametrize("instructions", ["avx512_bf16", "amx_bf16", "bf16", "sve_bf16"])
def test_auto_is_bfloat16_on_processors_that_compute_in_it(capabilities, monkeypatch, instructions):
    assert choose_dtype("auto", CPU) == torch.float32
    capabilities[instructions] = True
    assert choose_dtype("auto", CPU) == torch.bfloat16
    # As on macOS, whose processors know bfloat16 and whose torch does not use it.
    monkeypatch.setattr(precision.torch.backends.mkldnn, "is_available", lambda: False)
    assert choose_dtype("auto", CPU) == torch.float32


def test_auto_on_other_devices(monkeypatch):
    native = {"value": True}
    monkeypatch.setattr(precision.torch.cuda, "is_bf16_supported", lambda including_emulation: native["value"])
    assert choose_dtype("auto", GPU) == torch.bfloat16
    native["value"] = False
    assert choose_dtype("auto", GPU) == torch.float16
    assert choose_dtype("auto", torch.device("mps")) == torch.float32
    assert choose_dtype(None, GPU) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_type_without_instructions_is_warned_about(capabilities, caplog, dtype):
    assert choose_dtype(dtype, CPU) == getattr(torch, dtype)
    assert f"dtype: {dtype}: this processor has no instructions for it" in caplog.text
    caplog.clear()
    choose_dtype(dtype, GPU)
    choose_dtype("float32", CPU)
    assert not caplog.records


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_on_this_gpu(model_dirs):
    from handlers.testing import HandlerHarness

    config = {"handler": {"mode": MODE, "output": "scores", "dtype": "auto"}}
    folder = folder_of(model_dirs, MODE)
    harness = HandlerHarness("transformer_handler", folder, config, serialized_file="model.safetensors", gpu=0)
    assert weight_type(harness) in (torch.bfloat16, torch.float16)
    for text, answer in zip(SENTENCES, harness.predict_batch(SENTENCES), strict=True):
        expected = plain_logits(folder, text).softmax(-1).tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=0.05)
