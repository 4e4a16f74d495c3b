"""handler: in model-config.yaml, key by key."""

from __future__ import annotations

import json

import pytest

from handlers.errors import ModelLoadError
from handlers.transformer.settings import MODES, ExplanationSettings, load_settings


def test_the_originals_example_is_read(tmp_path):
    section = {
        "model_name": "bert-base-uncased",
        "mode": "sequence_classification",
        "do_lower_case": True,
        "num_labels": 2,
        "save_mode": "pretrained",
        "max_length": 150,
        "captum_explanation": True,
        "embedding_name": "bert",
        "BetterTransformer": False,
        "model_parallel": False,
    }
    settings = load_settings(section, tmp_path)
    assert (settings.mode, settings.model_name, settings.max_length) == (section["mode"], "bert-base-uncased", 150)
    assert (settings.num_labels, settings.do_lower_case, settings.output) == (2, True, "plain")


def test_text_counts_as_numbers_and_flags(tmp_path):
    section = {
        "mode": "question_answering",
        "max_length": "64",
        "num_labels": "0",
        "batch_size": "4",
        "BetterTransformer": "True",
        "model_parallel": "false",
        "explanation": {"n_steps": "20", "internal_batch_size": "8"},
    }
    settings = load_settings(section, tmp_path)
    assert (settings.max_length, settings.num_labels, settings.batch_size) == (64, None, 4)
    assert (settings.better_transformer, settings.model_parallel) == (True, False)
    assert settings.explanation == ExplanationSettings(20, "gausslegendre", 8)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("mode", "translation", "embedding"),
        ("save_mode", "onnx", "pretrained, torchscript"),
        ("dtype", "bfloat", "auto, bfloat16, float16, float32"),
        ("dtype", "torch.int8", "auto, bfloat16, float16, float32"),
        ("dtype", 16, "auto, bfloat16, float16, float32"),
        ("torch_dtype", "float64", "auto, bfloat16, float16, float32"),
        ("max_length", 0, "at least 1"),
        ("max_length", "many", "whole number"),
        ("max_length", 1.5, "whole number"),
        ("max_length", True, "whole number"),
        ("num_labels", -1, "at least 0"),
        ("captum_explanation", "maybe", "true, false"),
        ("BetterTransformer", 7, "true, false"),
        ("hardware", "tpu", "neuron, neuronx"),
        ("output", "xml", "plain, scores"),
        ("max_answer_length", 0, "at least 1"),
        ("explanation", 5, "a mapping"),
        ("generation", [1], "a mapping"),
    ],
)
def test_wrong_values_name_key_value_and_what_is_allowed(tmp_path, key, value, allowed):
    with pytest.raises(ModelLoadError) as caught:
        load_settings({"mode": "embedding", key: value}, tmp_path)
    assert f"handler: {key}: {value!r}" in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *[(name, name) for name in ("auto", "bfloat16", "float16", "float32")],
        *[("torch.bfloat16", "bfloat16"), ("bf16", "bfloat16"), ("fp16", "float16"), ("half", "float16")],
        (None, None),
    ],
)
def test_dtypes_as_torch_and_transformers_write_them(tmp_path, written, name):
    assert load_settings({"mode": "embedding", "dtype": written}, tmp_path).dtype == name
    assert load_settings({"mode": "embedding", "torch_dtype": written}, tmp_path).dtype == name


@pytest.mark.parametrize(
    ("key", "value"), [("n_steps", 0), ("n_steps", 1001), ("method", "magic"), ("internal_batch_size", 0)]
)
def test_wrong_explanation_settings(tmp_path, key, value):
    with pytest.raises(ModelLoadError, match=f"explanation: {key}: "):
        load_settings({"mode": "embedding", "explanation": {key: value}}, tmp_path)


@pytest.mark.parametrize(
    ("architecture", "mode"),
    [
        ("BertForSequenceClassification", "sequence_classification"),
        ("RobertaForTokenClassification", "token_classification"),
        ("DistilBertForQuestionAnswering", "question_answering"),
        ("GPT2LMHeadModel", "text_generation"),
        ("LlamaForCausalLM", "text_generation"),
        ("BertModel", "embedding"),
    ],
)
def test_mode_is_inferred(tmp_path, architecture, mode):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    assert load_settings({}, tmp_path).mode == mode
    assert load_settings(None, tmp_path).mode == mode


def test_mode_that_cannot_be_inferred_lists_the_modes(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(ModelLoadError) as caught:
        load_settings({}, tmp_path)
    assert all(mode in str(caught.value) for mode in MODES)
    (tmp_path / "modules.json").write_text("[]")
    assert load_settings({}, tmp_path).mode == "embedding"


def test_legacy_file_counts_only_without_a_handler_section(tmp_path):
    (tmp_path / "setup_config.json").write_text('{"mode": "embedding", "max_length": "9"}')
    assert load_settings(None, tmp_path).max_length == 9
    assert load_settings({"mode": "embedding"}, tmp_path).max_length is None
    (tmp_path / "setup_config.json").write_text("[1]")
    with pytest.raises(ModelLoadError, match=r"setup_config\.json must hold a JSON object"):
        load_settings(None, tmp_path)


def test_misspelt_keys_are_warned_about(tmp_path, caplog):
    load_settings({"mode": "embedding", "max_lenght": 5, "my_own_key": 1, "profile": True}, tmp_path)
    assert "max_lenght is not a known key; did you mean max_length?" in caplog.text
    assert "my_own_key" not in caplog.text


def test_a_section_that_is_no_mapping(tmp_path):
    with pytest.raises(ModelLoadError, match="must be a mapping"):
        load_settings("sequence_classification", tmp_path)
