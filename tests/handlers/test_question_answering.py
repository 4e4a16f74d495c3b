"""Answers and explanations against plain transformers and Captum."""

from __future__ import annotations

import itertools

import pytest
import torch
from captum.attr import LayerIntegratedGradients
from transformer_samples import CONTEXT, QUESTION, SENTENCES
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from handlers.errors import PredictionException
from handlers.transformer.tasks.question_answering import best_span

MODE = "question_answering"
PAIRS = [
    {"question": QUESTION, "context": CONTEXT},
    {"question": "Who reported?", "context": SENTENCES[0]},
    {"question": "What did the committee decide?", "context": SENTENCES[2]},
]


@pytest.fixture(params=["bert", "distilbert", "roberta"])
def folder(request, model_dirs):
    return model_dirs(request.param, "ForQuestionAnswering")


def inputs_of(model, encoded):
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if model.config.model_type == "bert" else [])
    return {name: encoded[name] for name in names}


def plain(folder, pair):
    """Tokens, their places, start and end logits, and the best span by trying every one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    encoded = tokenizer(pair["question"], pair["context"], return_tensors="pt", return_offsets_mapping=True)
    with torch.no_grad():
        output = model(**inputs_of(model, encoded))
    start, end = output.start_logits[0], output.end_logits[0]
    context = [at for at, part in enumerate(encoded.sequence_ids(0)) if part == 1]
    spans = [(i, j) for i, j in itertools.product(context, context) if i <= j]
    best = max(spans, key=lambda span: float(start[span[0]] + end[span[1]]))
    score = float(start[context].softmax(0)[best[0] - context[0]] * end[context].softmax(0)[best[1] - context[0]])
    return tokenizer, encoded, best, score


def test_answers_equal_plain_transformers_alone_and_in_a_batch(folder, serve):
    harness, scored = serve(folder, mode=MODE), serve(folder, mode=MODE, output="scores")
    answers, scores = harness.predict_batch(PAIRS), scored.predict_batch(PAIRS)
    for pair, answer, score in zip(PAIRS, answers, scores, strict=True):
        tokenizer, encoded, (first, last), probability = plain(folder, pair)
        tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"][0])
        assert answer == tokenizer.convert_tokens_to_string(tokens[first : last + 1])
        assert harness.predict(pair) == answer
        start, end = int(encoded["offset_mapping"][0][first][0]), int(encoded["offset_mapping"][0][last][1])
        assert (score["start"], score["end"], score["answer"]) == (start, end, pair["context"][start:end])
        assert score["score"] == pytest.approx(probability, abs=1e-4)


@pytest.mark.parametrize(
    ("start", "end", "limit", "expected"),
    [
        ([9, 0, 5, 1], [9, 0, 1, 5], None, (2, 3)),  # the question's own tokens never answer
        ([0, 0, 1, 5], [0, 0, 5, 1], None, (2, 2)),  # never before it starts: 1+5 and 5+1 tie, the first wins
        ([0, 0, 9, 0], [0, 0, 0, 9], None, (2, 3)),
        ([0, 0, 9, 0], [0, 0, 1, 9], 1, (2, 2)),
    ],
)
def test_best_span(start, end, limit, expected):
    of_context = [False, False, True, True]
    span = best_span(torch.tensor(start).float(), torch.tensor(end).float(), of_context, limit)
    assert (span.start, span.end) == expected


def plain_explanation(folder, pair, target, output):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    encoded = tokenizer(pair["question"], pair["context"], return_tensors="pt", return_special_tokens_mask=True)
    inputs = inputs_of(model, encoded)
    ids = inputs.pop("input_ids")
    baseline = torch.where(encoded["special_tokens_mask"].bool(), ids, tokenizer.pad_token_id)
    names = list(inputs)
    gradients = LayerIntegratedGradients(
        lambda x, *rest: model(x, **dict(zip(names, rest, strict=True)))[output], model.base_model.embeddings
    )
    attributions, delta = gradients.attribute(
        ids,
        baselines=baseline,
        additional_forward_args=tuple(inputs.values()),
        target=target,
        return_convergence_delta=True,
    )
    sums = attributions.sum(-1)[0]
    words = [token.replace("Ġ", "") for token in tokenizer.convert_ids_to_tokens(ids[0])]
    return words, (sums / sums.norm()).tolist(), float(delta)


def check_explanation(folder, pair, answer, start, end):
    words, importances, delta = plain_explanation(folder, pair, start, 0)
    assert list(answer) == [
        "words",
        "importances_answer_start",
        "importances_answer_end",
        "delta_start",
        "delta_end",
    ]
    assert answer["words"] == words
    assert answer["importances_answer_start"] == pytest.approx(importances, abs=1e-4)
    assert answer["delta_start"] == pytest.approx(delta, abs=1e-4)
    _, importances, delta = plain_explanation(folder, pair, end, 1)
    assert answer["importances_answer_end"] == pytest.approx(importances, abs=1e-4)
    assert answer["delta_end"] == pytest.approx(delta, abs=1e-4)


def test_explanations_equal_plain_captum(folder, serve):
    harness = serve(folder, mode=MODE)
    for pair, answer in zip(PAIRS, harness.explain_batch(PAIRS), strict=True):
        check_explanation(folder, pair, answer, *plain(folder, pair)[2])


@pytest.mark.parametrize("target", [{"start": 3, "end": 5}, [3, 5], "(3, 5)"])
def test_start_and_end_may_be_chosen(folder, serve, target):
    check_explanation(folder, PAIRS[0], serve(folder, mode=MODE).explain({**PAIRS[0], "target": target}), 3, 5)


@pytest.mark.parametrize("target", [4, "4"])
def test_one_position_means_start_and_end(folder, serve, target):
    check_explanation(folder, PAIRS[0], serve(folder, mode=MODE).explain({**PAIRS[0], "target": target}), 4, 4)


def test_target_out_of_range_is_refused_with_the_range(folder, serve):
    words = plain_explanation(folder, PAIRS[0], 0, 0)[0]
    with pytest.raises(PredictionException, match=f"from 0 to {len(words) - 1}"):
        serve(folder, mode=MODE).explain({**PAIRS[0], "target": len(words)})


@pytest.mark.parametrize(
    "body",
    [
        str(PAIRS[0]),
        '{"question": "What is nice?", "context": "' + CONTEXT + '"}',
        {"data": PAIRS[0]},
        {"data": str(PAIRS[0])},
        {**PAIRS[0], "target": 0, "other": None},
    ],
)
def test_every_form_of_a_pair_is_read(folder, serve, body):
    harness = serve(folder, mode=MODE)
    assert harness.predict(body) == harness.predict(PAIRS[0])


@pytest.mark.parametrize("body", [PAIRS, {"instances": PAIRS}, str(PAIRS)])
def test_a_list_of_pairs_is_answered_by_a_list(folder, serve, body):
    harness = serve(folder, mode=MODE)
    assert harness.predict(body) == harness.predict_batch(PAIRS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"question": "who?"}, "context"),
        ({"context": "here"}, "question"),
        ({"question": "", "context": "here"}, "question is empty"),
        ({"question": "who?", "context": 5}, "context must be text"),
        ("who is there?", "question"),
        (b"", "no text"),
        (["a", "b"], "question"),
        ({"question": ["who?"], "context": "here"}, "question must be text"),
    ],
)
def test_bad_pairs_are_refused(folder, serve, body, message):
    with pytest.raises(PredictionException, match=message) as caught:
        serve(folder, mode=MODE).predict(body)
    assert caught.value.error_code == 400


def test_long_context_is_cut(folder, serve):
    harness = serve(folder, mode=MODE, max_length=24)
    answer = harness.explain({"question": QUESTION, "context": "nice day " * 5000})
    assert len(answer["words"]) == 24
    assert isinstance(harness.predict({"question": "why " * 5000, "context": "nice day " * 5000}), str)
