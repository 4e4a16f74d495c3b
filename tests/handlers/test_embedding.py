"""Vectors against plain transformers, with the real all-MiniLM-L6-v2 among them."""

from __future__ import annotations

import json

import pytest
import torch
from transformer_samples import SENTENCES
from transformers import AutoModel, AutoTokenizer

from handlers.errors import ModelLoadError, PredictionException


def plain_states(folder, text):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]


def test_minilm_vectors_are_the_normalised_mean(minilm_dir, serve):
    harness = serve(minilm_dir)
    assert harness.handler.task.settings.mode == "embedding"
    assert harness.handler.task.max_length == 256, "sentence_bert_config.json cuts at 256"
    for text, vector in zip(SENTENCES, harness.predict_batch(SENTENCES), strict=True):
        mean = plain_states(minilm_dir, text).mean(0)
        assert vector == pytest.approx((mean / mean.norm()).tolist(), abs=1e-4)
        assert harness.predict(text) == pytest.approx(vector, abs=1e-5)
    assert json.dumps(vector)


def test_mean_without_modules_json(model_dirs, serve):
    folder = model_dirs("bert", "Model")
    expected = [plain_states(folder, text).mean(0).tolist() for text in SENTENCES]
    for vector, mean in zip(serve(folder).predict_batch(SENTENCES), expected, strict=True):
        assert vector == pytest.approx(mean, abs=1e-4)


POOLINGS = {
    "pooling_mode_cls_token": lambda states: states[0],
    "pooling_mode_max_tokens": lambda states: states.max(0).values,
    "pooling_mode_mean_tokens": lambda states: states.mean(0),
    "pooling_mode_mean_sqrt_len_tokens": lambda states: states.sum(0) / len(states) ** 0.5,
    "pooling_mode_lasttoken": lambda states: states[-1],
}


def with_pooling(archive, source, pooling, *more):
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        *({"idx": 2, "path": "", "type": f"sentence_transformers.models.{name}"} for name in more),
    ]
    folder = archive(source, {"modules.json": modules})
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    return folder


@pytest.mark.parametrize("keys", [*([key] for key in POOLINGS), list(POOLINGS)[:3]])
def test_every_pooling_in_a_padded_batch(model_dirs, archive, serve, keys):
    source = model_dirs("bert", "Model")
    harness = serve(with_pooling(archive, source, dict.fromkeys(keys, True)))
    for text, vector in zip(SENTENCES, harness.predict_batch(SENTENCES), strict=True):
        states = plain_states(source, text)
        assert vector == pytest.approx(torch.cat([POOLINGS[key](states) for key in keys]).tolist(), abs=1e-4)


def test_unknown_modules_and_poolings_are_load_errors(model_dirs, archive, serve):
    source = model_dirs("bert", "Model")
    with pytest.raises(ModelLoadError, match="Dense is not supported"):
        serve(with_pooling(archive, source, {"pooling_mode_mean_tokens": True}, "Dense"))
    with pytest.raises(ModelLoadError, match="pooling_mode_weightedmean_tokens"):
        serve(with_pooling(archive, source, {"pooling_mode_weightedmean_tokens": True}))
    with pytest.raises(ModelLoadError, match=r"1_Pooling/config\.json"):
        serve(archive(source, {"modules.json": [{"path": "1_Pooling", "type": "x.Pooling"}]}))


def test_a_list_of_texts_is_answered_by_a_list_of_vectors(minilm_dir, serve):
    harness = serve(minilm_dir, output="scores")
    answer = harness.predict({"instances": SENTENCES})
    single = [harness.predict(text)["embedding"] for text in SENTENCES]
    assert [len(one["embedding"]) for one in answer] == [384] * len(SENTENCES)
    assert torch.allclose(torch.tensor([one["embedding"] for one in answer]), torch.tensor(single), atol=1e-5)


def test_vectors_have_no_explanation(minilm_dir, serve):
    with pytest.raises(PredictionException, match="embedding has no explanations") as caught:
        serve(minilm_dir).explain("text")
    assert caught.value.error_code == 400
