"""Predictions and explanations against plain transformers and Captum."""

from __future__ import annotations

import json

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from transformer_samples import SENTENCES
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from handlers.errors import ModelLoadError, PredictionException

MODE = "sequence_classification"
LABELS = {"0": "bad", "1": "neutral", "2": "good"}


def plain_logits(folder, text, max_length=128):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)
        names = ("input_ids", "attention_mask")
        return model(**{name: inputs[name] for name in names}).logits[0]


def plain_explanation(folder, text, target, layer_of, n_steps=50, method="gausslegendre"):
    """The documented recipe: one text, no padding, baseline of padding between the special tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    baseline = torch.full_like(ids, tokenizer.pad_token_id)
    baseline[0, 0], baseline[0, -1] = ids[0, 0], ids[0, -1]
    gradients = LayerIntegratedGradients(lambda x, mask: model(x, attention_mask=mask).logits, layer_of(model))
    attributions, delta = gradients.attribute(
        ids,
        baselines=baseline,
        additional_forward_args=(torch.ones_like(ids),),
        target=target,
        n_steps=n_steps,
        method=method,
        return_convergence_delta=True,
    )
    sums = attributions.sum(-1)[0]
    tokens = [token.replace("Ġ", "") for token in tokenizer.convert_ids_to_tokens(ids[0])]
    return tokens, (sums / sums.norm()).tolist(), float(delta)


@pytest.fixture(params=["bert", "distilbert", "roberta", "gpt2"])
def folder(request, model_dirs):
    return model_dirs(request.param, "ForSequenceClassification", num_labels=3)


def test_probabilities_equal_plain_transformers_alone_and_in_a_batch(folder, serve):
    harness = serve(folder, mode=MODE, output="scores")
    batch = harness.predict_batch(SENTENCES)
    for text, answer in zip(SENTENCES, batch, strict=True):
        expected = plain_logits(folder, text).softmax(-1)
        alone = harness.predict(text)
        assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-4)
        assert list(alone["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-4)
        assert answer["score"] == pytest.approx(float(expected.max()), abs=1e-4)
        assert answer["label"] == f"LABEL_{int(expected.argmax())}"


def test_tokens_and_padding_are_counted(folder, serve):
    harness = serve(folder, mode=MODE)
    texts = ["fine", "fine weather", "fine weather today"]
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]]
    assert len(set(lengths)) > 1
    harness.predict_batch(texts)
    harness.explain(texts[0])  # is not what the model is there for
    counted = [(each.name, each.value) for each in harness.metrics if each.name != "HandlerTime"]
    assert counted == [
        ("modelserver_tokens_total", sum(lengths)),
        ("modelserver_padding_tokens_total", max(lengths) * len(lengths) - sum(lengths)),
    ]


def test_texts_of_different_lengths_are_not_padded_to_the_longest(folder, serve):
    harness = serve(folder, mode=MODE, output="scores")
    texts = ["fine " * 100, "fine", "fine " * 90, "fine weather"]
    for text, answer in zip(texts, harness.predict_batch(texts), strict=True):
        expected = plain_logits(folder, text).softmax(-1).tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-4)
    tokens, padding = (each.value for each in harness.metrics if each.name != "HandlerTime")
    assert padding < tokens / 10


def test_plain_answer_is_the_label_of_index_to_name(model_dirs, archive, serve):
    source = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    harness = serve(archive(source, {"index_to_name.json": LABELS}), mode=MODE)
    expected = [LABELS[str(int(plain_logits(source, text).argmax()))] for text in SENTENCES]
    assert harness.predict_batch(SENTENCES) == expected


def test_mode_is_inferred_and_legacy_settings_are_read(model_dirs, archive, serve):
    source = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    legacy = {
        "model_name": "bert-base-uncased",
        "mode": MODE,
        "do_lower_case": "true",
        "num_labels": "0",
        "save_mode": "pretrained",
        "max_length": "8",
        "captum_explanation": "false",
        "FasterTransformer": False,
        "model_parallel": False,
        "embedding_name": "bert",
    }
    from handlers.testing import HandlerHarness

    harness = HandlerHarness(
        "transformer_handler", archive(source, {"setup_config.json": legacy}), serialized_file="model.safetensors"
    )
    task = harness.handler.task
    assert (task.max_length, task.settings.captum_explanation, task.settings.num_labels) == (8, False, None)
    assert serve(source).handler.task.settings.mode == MODE


def test_long_text_is_cut_to_max_length(model_dirs, serve):
    folder = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    text = "fine " * 500
    answer = serve(folder, mode=MODE, output="scores", max_length=16).predict(text)
    expected = plain_logits(folder, text, max_length=16).softmax(-1).tolist()
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("text", ["a" * 100_000, "{" * 100_000, "word " * 20_000])
def test_huge_text_is_answered(model_dirs, serve, text):
    harness = serve(model_dirs("bert", "ForSequenceClassification", num_labels=3), mode=MODE, output="scores")
    assert harness.predict(text)["score"] <= 1


def test_max_length_beyond_the_positions_is_clamped_with_a_warning(model_dirs, serve, caplog):
    folder = model_dirs("roberta", "ForSequenceClassification", num_labels=3)
    harness = serve(folder, mode=MODE, output="scores", max_length="5000")
    assert harness.handler.task.max_length == 128
    assert "max_length 5000 is more than the 128 positions" in caplog.text
    assert harness.predict("economy " * 500)["score"] <= 1


def test_multi_label_models_answer_a_sigmoid_per_class(model_dirs, serve):
    folder = model_dirs("bert", "ForSequenceClassification", num_labels=3, problem_type="multi_label_classification")
    answer = serve(folder, mode=MODE, output="scores").predict(SENTENCES[0])
    expected = plain_logits(folder, SENTENCES[0]).sigmoid().tolist()
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-4)


LAYERS = {
    "bert": lambda model: model.bert.embeddings,
    "distilbert": lambda model: model.distilbert.embeddings,
    "roberta": lambda model: model.roberta.embeddings,
}


@pytest.mark.parametrize("architecture", list(LAYERS))
def test_explanations_equal_plain_captum_alone_and_in_a_batch(architecture, model_dirs, serve):
    folder = model_dirs(architecture, "ForSequenceClassification", num_labels=3)
    harness = serve(folder, mode=MODE, embedding_name=architecture)
    requests = [{"text": text, "target": index % 3} for index, text in enumerate(SENTENCES)]
    for request, batched in zip(requests, harness.explain_batch(requests), strict=True):
        words, importances, delta = plain_explanation(folder, request["text"], request["target"], LAYERS[architecture])
        for answer in (batched, harness.explain(request)):
            assert list(answer) == ["words", "importances", "delta"]
            assert answer["words"] == words
            assert answer["importances"] == pytest.approx(importances, abs=1e-4)
            assert answer["delta"] == pytest.approx(delta, abs=1e-4)


def test_explanation_of_the_real_model_equals_plain_captum(minilm_dir, serve, archive):
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(minilm_dir, num_labels=2)
    folder = archive(minilm_dir)
    model.save_pretrained(folder)
    harness = serve(folder, mode=MODE, output="scores")
    expected = plain_logits(folder, SENTENCES[0]).softmax(-1).tolist()
    assert list(harness.predict(SENTENCES[0])["probabilities"].values()) == pytest.approx(expected, abs=1e-4)
    answer = harness.explain({"text": SENTENCES[0], "target": 0})
    words, importances, delta = plain_explanation(folder, SENTENCES[0], 0, LAYERS["bert"])
    assert answer["words"] == words
    assert answer["importances"] == pytest.approx(importances, abs=1e-4)
    assert answer["delta"] == pytest.approx(delta, abs=1e-4)


def test_embeddings_are_found_without_a_name_and_with_a_wrong_one(model_dirs, serve, caplog):
    folder = model_dirs("distilbert", "ForSequenceClassification", num_labels=3)
    request = {"text": SENTENCES[0], "target": 1}
    named = serve(folder, mode=MODE, embedding_name="distilbert").explain(request)
    assert serve(folder, mode=MODE).explain(request) == named
    assert "embedding_name" not in caplog.text
    assert serve(folder, mode=MODE, embedding_name="gpt2").explain(request) == named
    assert "embedding_name gpt2" in caplog.text


def test_decoder_classifier_is_explained_on_its_token_embedding(model_dirs, serve):
    answer = serve(model_dirs("gpt2", "ForSequenceClassification", num_labels=3), mode=MODE).explain(SENTENCES[1])
    assert len(answer["words"]) == len(answer["importances"])
    assert sum(value**2 for value in answer["importances"]) == pytest.approx(1, abs=1e-4)


def test_predicted_class_is_explained_without_a_target(model_dirs, serve):
    folder = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    harness = serve(folder, mode=MODE)
    for text in SENTENCES:
        predicted = int(plain_logits(folder, text).argmax())
        assert harness.explain(text) == harness.explain({"text": text, "target": predicted})


def test_steps_method_and_internal_batch_size_reach_captum(model_dirs, serve):
    folder = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    expected = plain_explanation(folder, SENTENCES[0], 2, LAYERS["bert"], n_steps=7, method="riemann_trapezoid")
    in_yaml = serve(folder, mode=MODE, explanation={"n_steps": "7", "method": "riemann_trapezoid"})
    asked = {"text": SENTENCES[0], "target": "2", "n_steps": 7, "method": "riemann_trapezoid", "internal_batch_size": 3}
    for answer in (in_yaml.explain({"text": SENTENCES[0], "target": 2}), serve(folder, mode=MODE).explain(asked)):
        assert answer["importances"] == pytest.approx(expected[1], abs=1e-4)
        assert answer["delta"] == pytest.approx(expected[2], abs=1e-4)


def test_requests_with_different_options_keep_their_order(model_dirs, serve):
    folder = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    harness = serve(folder, mode=MODE)
    requests = [{"text": text, "target": 0, "n_steps": 5 + index % 2} for index, text in enumerate(SENTENCES)]
    for request, answer in zip(requests, harness.explain_batch(requests), strict=True):
        expected = plain_explanation(folder, request["text"], 0, LAYERS["bert"], n_steps=request["n_steps"])
        assert answer["words"] == expected[0]
        assert answer["importances"] == pytest.approx(expected[1], abs=1e-4)


def test_explanation_is_cut_as_the_prediction_is(model_dirs, serve):
    harness = serve(model_dirs("bert", "ForSequenceClassification", num_labels=3), mode=MODE, max_length=10)
    answer = harness.explain("fine " * 100)
    assert answer["words"] == ["[CLS]", *["fine"] * 8, "[SEP]"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"target": 3}, "from 0 to 2"),
        ({"target": -1}, "from 0 to 2"),
        ({"target": "first"}, "from 0 to 2"),
        ({"target": [0, 1]}, "from 0 to 2"),
        ({"target": True}, "from 0 to 2"),
        ({"n_steps": 0}, "from 1 to 1000"),
        ({"n_steps": -1}, "from 1 to 1000"),
        ({"n_steps": 10**9}, "from 1 to 1000"),
        ({"n_steps": 2.5}, "from 1 to 1000"),
        ({"internal_batch_size": 0}, "at least 1"),
        ({"method": "magic"}, "gausslegendre"),
    ],
)
def test_bad_explanation_options_are_refused_with_what_is_allowed(model_dirs, serve, option, message):
    harness = serve(model_dirs("bert", "ForSequenceClassification", num_labels=3), mode=MODE)
    with pytest.raises(PredictionException, match=message) as caught:
        harness.explain({"text": "fine", **option})
    assert caught.value.error_code == 400
    assert next(iter(option)) in caught.value.message


def test_explanations_can_be_turned_off(model_dirs, serve):
    folder = model_dirs("bert", "ForSequenceClassification", num_labels=3)
    harness = serve(folder, mode=MODE, captum_explanation="false")
    with pytest.raises(PredictionException, match="captum_explanation: true") as caught:
        harness.explain("fine")
    assert caught.value.error_code == 400


def test_explaining_leaves_nothing_behind(model_dirs, serve):
    harness = serve(model_dirs("bert", "ForSequenceClassification", num_labels=3), mode=MODE, output="scores")
    module = harness.handler.task.network.module
    before = harness.predict_batch(SENTENCES)
    harness.explain_batch(SENTENCES)
    with pytest.raises(PredictionException):
        harness.explain({"text": "fine", "target": 99})
    assert not module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())
    assert json.dumps(harness.predict_batch(SENTENCES)) == json.dumps(before)


def test_wrong_number_of_labels_is_a_load_error(model_dirs, serve):
    with pytest.raises(ModelLoadError, match=r"num_labels: classifier.bias has the shape \(3,\) in the file, \(5,\)"):
        serve(model_dirs("bert", "ForSequenceClassification", num_labels=3), mode=MODE, num_labels=5)


def test_missing_head_is_named_in_the_log(model_dirs, serve, caplog):
    serve(model_dirs("bert", "Model"), mode=MODE, num_labels=2)
    assert "classifier.weight" in caplog.text
