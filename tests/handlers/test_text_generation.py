"""Generated text and its explanations against plain transformers and Captum."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerIntegratedGradients, LLMGradientAttribution, TextTokenInput
from transformer_samples import SENTENCES
from transformers import AutoModelForCausalLM, AutoTokenizer

from handlers.errors import ModelLoadError, PredictionException

MODE = "text_generation"
GREEDY = {"do_sample": False, "max_new_tokens": 6}


@pytest.fixture
def folder(model_dirs):
    return model_dirs("gpt2", "LMHeadModel")


def plain(folder, text, **arguments):
    """What transformers generates for one prompt, without a batch around it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    ids = model.generate(**inputs, pad_token_id=tokenizer.eos_token_id, **arguments)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]


def test_greedy_text_equals_plain_transformers_alone_and_in_a_batch(folder, serve):
    harness = serve(folder, mode=MODE, generation=GREEDY)
    answers = harness.predict_batch(SENTENCES)
    for text, answer in zip(SENTENCES, answers, strict=True):
        assert answer == plain(folder, text, **GREEDY)[0]
        assert answer.startswith(text)
        assert harness.predict(text) == answer


def test_tokens_and_padding_of_all_calls_are_counted(folder, serve):
    """Prompts with parameters of their own are not padded to each other's length."""
    harness = serve(folder, mode=MODE, generation=GREEDY)
    harness.predict_batch([SENTENCES[0], SENTENCES[1], {"text": "a", "max_new_tokens": 2}])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first, second, alone = (len(tokenizer(text)["input_ids"]) for text in (SENTENCES[0], SENTENCES[1], "a"))
    assert first != second
    counted = [(each.name, each.value) for each in harness.metrics if each.name != "HandlerTime"]
    assert counted == [
        ("modelserver_tokens_total", first + second + alone),
        ("modelserver_padding_tokens_total", abs(first - second)),
    ]


def test_sampling_defaults_are_the_originals(folder, serve):
    answer = serve(folder, mode=MODE, max_length=20).predict({"text": SENTENCES[1], "seed": 5})
    torch.manual_seed(5)
    assert answer == plain(folder, SENTENCES[1], do_sample=True, top_p=0.95, top_k=60, max_new_tokens=20)[0]


def test_a_seed_is_reproducible_whatever_shares_the_batch(folder, serve):
    harness = serve(folder, mode=MODE, max_length=12)
    seeded = {"text": SENTENCES[0], "parameters": {"seed": 11, "temperature": 1.5}}
    alone = harness.predict(seeded)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batch = harness.predict_batch([{**seeded, "text": SENTENCES[1]}, seeded, seeded])
    assert batch[1:] == [alone, alone]
    assert torch.equal(torch.rand(3), expected), "the process' random state has moved"
    assert harness.predict({"text": SENTENCES[0], "seed": 12, "temperature": 1.5}) != alone


def test_requests_of_equal_parameters_share_one_call(folder, serve, monkeypatch):
    harness = serve(folder, mode=MODE, generation=GREEDY)
    rows = []
    module = harness.handler.task.network.module
    generate = module.generate
    monkeypatch.setattr(module, "generate", lambda **given: rows.append(len(given["input_ids"])) or generate(**given))
    short = {"text": SENTENCES[1], "max_new_tokens": 2}
    answers = harness.predict_batch([SENTENCES[0], short, SENTENCES[2], short, {"text": SENTENCES[1], "seed": 1}])
    assert rows == [2, 2, 1]
    expected = plain(folder, SENTENCES[1], do_sample=False, max_new_tokens=2)[0]
    assert answers[1] == answers[3] == expected
    assert answers[2] == plain(folder, SENTENCES[2], **GREEDY)[0]


def test_scores_count_tokens(folder, serve):
    answer = serve(folder, mode=MODE, output="scores", generation=GREEDY).predict(SENTENCES[1])
    prompt = len(AutoTokenizer.from_pretrained(folder)(SENTENCES[1])["input_ids"])
    assert answer == {
        "generated_text": plain(folder, SENTENCES[1], **GREEDY)[0],
        "prompt_tokens": prompt,
        "generated_tokens": 6,
    }


def test_several_sequences_are_answered_by_a_list(folder, serve):
    harness = serve(folder, mode=MODE)
    request = {"text": SENTENCES[1], "parameters": {"num_return_sequences": 3, "max_new_tokens": 5, "seed": 2}}
    torch.manual_seed(2)
    arguments = {"do_sample": True, "top_p": 0.95, "top_k": 60, "num_return_sequences": 3, "max_new_tokens": 5}
    assert harness.predict(request) == plain(folder, SENTENCES[1], **arguments)


def test_prompt_and_new_tokens_stay_within_the_positions(folder, serve):
    harness = serve(folder, mode=MODE, output="scores")
    for text in (SENTENCES[1], "day " * 3000, "a" * 100_000):
        answer = harness.predict({"text": text, "max_new_tokens": 10**9, "do_sample": False})
        assert answer["prompt_tokens"] + answer["generated_tokens"] <= 128
        assert answer["generated_tokens"] >= 1


def test_dict_text_and_plain_text_are_both_prompts(folder, serve):
    harness = serve(folder, mode=MODE, generation=GREEDY, captum_explanation=True)
    assert harness.predict("{'text': 'It was'}") == harness.predict("It was") == harness.predict({"data": "It was"})


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": 1e-30},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
        {"repetition_penalty": 0},
        {"num_return_sequences": 0},
        {"num_return_sequences": 1000},
        {"num_return_sequences": 2, "do_sample": False},
        {"seed": -1},
        {"do_sample": "maybe"},
        {"max_lenght": 3},
    ],
)
def test_bad_parameters_are_refused_by_name(folder, serve, parameters):
    harness = serve(folder, mode=MODE)
    with pytest.raises(PredictionException, match=next(iter(parameters))) as caught:
        harness.predict({"text": "It was", "parameters": parameters})
    assert caught.value.error_code == 400


def test_parameters_must_be_an_object(folder, serve):
    with pytest.raises(PredictionException, match="parameters must be an object"):
        serve(folder, mode=MODE).predict({"text": "It was", "parameters": [1]})


def test_bad_parameters_of_the_archive_are_a_load_error(folder, serve):
    with pytest.raises(ModelLoadError, match="top_p: 2 is not allowed"):
        serve(folder, mode=MODE, generation={"top_p": 2})


def test_a_trace_cannot_generate(folder, serve):
    with pytest.raises(ModelLoadError, match="no generation loop"):
        serve(folder, mode=MODE, save_mode="torchscript")


def plain_explanation(folder, text, target):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    gradients = LLMGradientAttribution(LayerIntegratedGradients(model, model.get_input_embeddings()), tokenizer)
    result = gradients.attribute(
        TextTokenInput(text, tokenizer, baselines=tokenizer.eos_token_id), target=target, n_steps=50
    )
    return result.token_attr, [token.replace("Ġ", "") for token in result.input_tokens]


def test_explanation_of_a_given_text_equals_plain_captum(folder, serve):
    answer = serve(folder, mode=MODE).explain({"text": SENTENCES[0], "target": " a fine day"})
    matrix, words = plain_explanation(folder, SENTENCES[0], " a fine day")
    total = matrix.sum(0)
    assert list(answer) == ["words", "importances", "output_tokens", "token_importances"]
    assert answer["words"] == words
    assert torch.allclose(torch.tensor(answer["token_importances"]), matrix, atol=1e-4)
    assert answer["importances"] == pytest.approx((total / total.norm()).tolist(), abs=1e-4)
    assert len(answer["output_tokens"]) == len(matrix)


@pytest.mark.filterwarnings("ignore:.*retty tokens|.*Skipping this token")
def test_most_likely_continuation_is_explained_without_a_target(folder, serve):
    harness = serve(folder, mode=MODE)
    requests = [{"text": text, "max_new_tokens": 3} for text in SENTENCES[:2]]
    for request, answer in zip(requests, harness.explain_batch(requests), strict=True):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        ids = tokenizer(request["text"], return_tensors="pt")
        output = model.generate(**ids, do_sample=False, max_new_tokens=3, pad_token_id=tokenizer.eos_token_id)
        new = output[0, ids["input_ids"].shape[1] :]
        matrix, _ = plain_explanation(folder, request["text"], new)
        assert torch.allclose(torch.tensor(answer["token_importances"]), matrix, atol=1e-4)
    chosen = harness.explain({**requests[0], "target": [2, 0]})
    everything = harness.explain(requests[0])["token_importances"]
    assert chosen["token_importances"] == [everything[2], everything[0]]


@pytest.mark.parametrize("target", [3, [0, 3], [], {"a": 1}, -1, ""])
def test_bad_targets_are_refused(folder, serve, target):
    with pytest.raises(PredictionException, match="target") as caught:
        serve(folder, mode=MODE).explain({"text": "It was", "target": target, "max_new_tokens": 3})
    assert caught.value.error_code == 400


def test_explaining_leaves_the_generation_as_it_was(folder, serve):
    harness = serve(folder, mode=MODE, generation=GREEDY)
    before = harness.predict_batch(SENTENCES)
    harness.explain_batch(SENTENCES)
    module = harness.handler.task.network.module
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert harness.predict_batch(SENTENCES) == before


def test_a_compiled_model_generates_and_explains_the_same(folder, serve):
    pt2 = {"pt2": {"compile": {"enable": True, "backend": "eager"}}}
    plain_harness = serve(folder, mode=MODE, generation=GREEDY)
    compiled = serve(folder, mode=MODE, generation=GREEDY, config=pt2)
    assert compiled.handler.task._compiled_forward is not None
    assert compiled.predict_batch(SENTENCES) == plain_harness.predict_batch(SENTENCES)
    request = {"text": SENTENCES[0], "target": " day"}
    assert compiled.explain(request) == plain_harness.explain(request)
