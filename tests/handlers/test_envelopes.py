"""The body envelope, alone and around the transformer handler."""

from __future__ import annotations

import pytest
from transformer_samples import SENTENCES

from handlers.envelopes import wrap
from handlers.errors import ModelLoadError


def test_body_envelope_hands_over_the_values_themselves():
    seen = []
    entry = wrap("body", lambda data, context: seen.append((data, context)) or ["answer"] * len(data))
    rows = [{"data": "a", "body": "b"}, {"body": {"data": "c", "target": 1}}, {"data": "", "body": bytearray(b"d")}, {}]
    assert entry(rows, "context") == ["answer"] * 4
    assert seen == [(["a", {"data": "c", "target": 1}, bytearray(b"d"), None], "context")]


def test_empty_batches_and_results_pass_untouched():
    assert wrap("body", lambda data, context: data)([], None) == []


def test_unknown_envelopes_are_refused_with_the_known_ones():
    with pytest.raises(ModelLoadError, match="'soap' is not known; known: body"):
        wrap("soap", lambda data, context: data)


def test_explanation_request_in_a_json_body(model_dirs, serve):
    """The original's `bert_ts.json` with service_envelope=body."""
    harness = serve(model_dirs("bert", "ForSequenceClassification", num_labels=3), mode="sequence_classification")
    expected = harness.explain({"text": SENTENCES[0], "target": 0})
    entry = wrap("body", harness.handler.handle)
    rows = [{"body": {"data": SENTENCES[0], "target": 0}}, {"body": bytearray(SENTENCES[0], "utf-8")}]
    assert entry(rows[:1], harness.context) == [expected]
    harness.context.request_processor = None
    assert entry(rows, harness.context) == harness.predict_batch([SENTENCES[0]] * 2)
