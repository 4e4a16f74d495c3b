"""Predictions and explanations against plain transformers and Captum."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from transformer_samples import SENTENCES
from transformers import AutoModelForTokenClassification, AutoTokenizer

from handlers.errors import ModelLoadError, PredictionException

MODE = "token_classification"
LIST = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
AS_TEXT = "[O, B-MISC, I-MISC, B-PER, I-PER, B-ORG, I-ORG, B-LOC, I-LOC]"
AS_DICT = {str(index): label for index, label in enumerate(LIST)}


@pytest.fixture(params=["bert", "roberta"])
def folder(request, model_dirs, archive):
    source = model_dirs(request.param, "ForTokenClassification", num_labels=9)
    return archive(source, {"index_to_name.json": {"label_list": AS_TEXT}})


def plain(folder, text):
    """Tokens, offsets and probabilities, special tokens included."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    with torch.no_grad():
        logits = model(encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[0]
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
    return tokens, encoded["offset_mapping"][0].tolist(), logits.softmax(-1)


def test_pairs_cover_the_texts_own_tokens(folder, serve):
    harness = serve(folder, mode=MODE)
    for text, answer in zip(SENTENCES, harness.predict_batch(SENTENCES), strict=True):
        tokens, _, probabilities = plain(folder, text)
        labels = [LIST[index] for index in probabilities.argmax(-1).tolist()]
        assert answer == list(zip(tokens, labels, strict=True))[1:-1]
        assert harness.predict(text) == answer


def test_scores_name_words_and_places(folder, serve):
    harness = serve(folder, mode=MODE, output="scores")
    for text, answer in zip(SENTENCES, harness.predict_batch(SENTENCES), strict=True):
        tokens, offsets, probabilities = plain(folder, text)
        scores, labels = probabilities.max(-1)
        own = range(1, len(tokens) - 1)
        assert [token["token"] for token in answer["tokens"]] == tokens[1:-1]
        assert [token["score"] for token in answer["tokens"]] == pytest.approx(scores[1:-1].tolist(), abs=1e-4)
        assert [entity["index"] for entity in answer["entities"]] == [at for at in own if labels[at] != 0]
        for entity in answer["entities"]:
            start, end = offsets[entity["index"]]
            assert (entity["start"], entity["end"], entity["word"]) == (start, end, text[start:end])
            assert entity["entity"] == LIST[labels[entity["index"]]]


@pytest.mark.parametrize(
    "labels", [AS_DICT, {"label_list": AS_TEXT}, {"label_list": LIST}, {"object_type_names": LIST}]
)
def test_every_shape_of_the_label_file_is_read(model_dirs, archive, serve, labels):
    source = model_dirs("bert", "ForTokenClassification", num_labels=9)
    harness = serve(archive(source, {"index_to_name.json": labels}), mode=MODE)
    assert harness.handler.task.labels == dict(enumerate(LIST))


@pytest.mark.parametrize("labels", [["a"], {"label_list": 3}, {"label_list": [1]}, {"zero": "a"}, {"0": 5}, "{"])
def test_bad_label_files_are_load_errors(model_dirs, archive, serve, labels):
    source = model_dirs("bert", "ForTokenClassification", num_labels=9)
    with pytest.raises(ModelLoadError):
        serve(archive(source, {"index_to_name.json": labels}), mode=MODE)


def plain_explanation(folder, text, token, label):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    baseline = torch.full_like(ids, tokenizer.pad_token_id)
    baseline[0, 0], baseline[0, -1] = ids[0, 0], ids[0, -1]
    gradients = LayerIntegratedGradients(lambda x: model(x, torch.ones_like(x)).logits, model.base_model.embeddings)
    attributions, delta = gradients.attribute(
        ids, baselines=baseline, target=(token, label), return_convergence_delta=True
    )
    sums = attributions.sum(-1)[0]
    return (sums / sums.norm()).tolist(), float(delta)


@pytest.mark.parametrize(
    "target",
    [[2, 1], {"token": 2, "label": 1}, "(2, 1)", "[2,1]", ["2", "1"]],
)
def test_explanations_equal_plain_captum_for_every_form_of_target(folder, serve, target):
    harness = serve(folder, mode=MODE)
    requests = [{"text": text, "target": target} for text in SENTENCES]
    for text, answer in zip(SENTENCES, harness.explain_batch(requests), strict=True):
        importances, delta = plain_explanation(folder, text, 2, 1)
        assert list(answer) == ["words", "importances", "delta"]
        assert answer["words"] == [token.replace("Ġ", "") for token in plain(folder, text)[0]]
        assert answer["importances"] == pytest.approx(importances, abs=1e-4)
        assert answer["delta"] == pytest.approx(delta, abs=1e-4)


def test_target_may_be_a_tuple_in_python_dict_text(folder, serve):
    harness = serve(folder, mode=MODE)
    answer = harness.explain("{'text': 'It was a fine day', 'target': (1, 2)}")
    assert answer == harness.explain({"text": "It was a fine day", "target": [1, 2]})


def test_most_confident_entity_is_explained_without_a_target(folder, serve):
    harness = serve(folder, mode=MODE)
    for text in SENTENCES:
        probabilities = plain(folder, text)[2][1:-1]
        scores, labels = probabilities.max(-1)
        scores = torch.where(labels == 0, scores - 1, scores)
        token = int(scores.argmax())
        expected = harness.explain({"text": text, "target": [token + 1, int(labels[token])]})
        assert harness.explain(text) == expected


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([99, 0], "from 0 to"),
        ([0, 9], "from 0 to 8"),
        ([0], r"\[token, label\]"),
        (1, r"\[token, label\]"),
        ("first", r"\[token, label\]"),
        ({"token": 1}, r"\[token, label\]"),
        ([1.5, 0], "whole number"),
    ],
)
def test_bad_targets_are_refused(folder, serve, target, message):
    with pytest.raises(PredictionException, match=message) as caught:
        serve(folder, mode=MODE).explain({"text": "It was a fine day", "target": target})
    assert caught.value.error_code == 400
