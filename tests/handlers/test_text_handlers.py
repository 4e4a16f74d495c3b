"""text_handler and text_classifier against plain torch, on a bag of words whose gradients are known exactly."""

from __future__ import annotations

import json
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handlers.contractions import CONTRACTION_MAP, expand_contractions
from handlers.errors import ModelLoadError, PredictionException
from handlers.testing import HandlerHarness
from handlers.text import TextHandler
from handlers.text_classifier import TextClassifier
from handlers.tokenization import get_tokenizer, ngrams_iterator

MODEL_FILE = """
from torch import nn


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(40, 6)
        self.fc = nn.Linear(6, 3)

    def forward(self, ids, offsets):
        return self.fc(self.embedding(ids, offsets))
"""
TOKENS = ["<unk>", "i", "do", "not", "know", "the", "cafe", "i do", "do not", "not know", "know the", "the cafe"]
LABELS = {"0": "good", "1": "bad", "2": "neither"}

# Each text with its words, and the indices of these and of their pairs, found by hand in TOKENS.
TEXTS: dict[str, tuple[list[str], list[int]]] = {
    "<b>I don't KNOW</b>\nthe Café!": (
        ["i", "do", "not", "know", "the", "cafe"],
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    ),
    "know": (["know"], [4]),
    "the &amp; cafe; the": (["the", "cafe", "the"], [5, 6, 5, 11, 0]),
}


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"embedding.weight": (40, 6), "fc.weight": (3, 6), "fc.bias": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def plain_scores(ids: list[int]) -> torch.Tensor:
    state = weights()
    return state["fc.weight"] @ state["embedding.weight"][ids].mean(0) + state["fc.bias"]


def plain_answer(ids: list[int]) -> dict[str, float]:
    return dict(zip(LABELS.values(), plain_scores(ids).softmax(0).tolist(), strict=True))


def plain_importances(ids: list[int], target: int) -> list[list[float]]:
    """Of a linear model: the weight times the difference from the baseline, a text of index 0 only."""
    state = weights()
    bag, baseline = state["embedding.weight"][ids].mean(0), state["embedding.weight"][0]
    attributions = (bag - baseline) * state["fc.weight"][target]
    return [attributions.softmax(0).tolist()]


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """The folder of an unpacked archive: `folder(vocabulary, "name.pt", labels)`."""

    def make(vocabulary: Any = None, name: str = "source_vocab.pt", labels: dict[str, str] | None = LABELS) -> Path:
        (tmp_path / "model.py").write_text(MODEL_FILE)
        torch.save(weights(), tmp_path / "model.pt")
        torch.save(TOKENS if vocabulary is None else vocabulary, tmp_path / name)
        if labels is not None:
            (tmp_path / "index_to_name.json").write_text(json.dumps(labels))
        return tmp_path

    return make


def load(folder: Path, handler: Any = "text_classifier", config: Any = None, **manifest: str) -> HandlerHarness:
    model = {"modelName": "bag", "modelFile": "model.py", "serializedFile": "model.pt", **manifest}
    return HandlerHarness(handler, folder, config, {"model": model})


# --- predictions ---


def test_every_text_of_a_batch_gets_its_own_probabilities(folder: Folder) -> None:
    harness = load(folder())
    answers = harness.predict_batch(list(TEXTS))
    for answer, (_, ids) in zip(answers, TEXTS.values(), strict=True):
        assert list(answer) == list(LABELS.values())
        assert answer == pytest.approx(plain_answer(ids), abs=1e-6)
    assert [harness.predict(text) for text in TEXTS] == [pytest.approx(answer, abs=1e-6) for answer in answers]


def test_every_form_of_a_request(folder: Folder) -> None:
    harness = load(folder())
    rows = [
        {"body": bytearray(b"know")},
        {"body": "know"},
        {"data": b"know"},
        {"data": "", "body": "know"},
        {"body": {"data": "know", "target": 1}},
        {"body": {"body": "know"}},
        "know",
        bytearray(b"know"),
        {"data": "know", "target": 1},
    ]
    answers = harness.handler.handle(rows, harness.context)
    assert answers == [pytest.approx(plain_answer([4]), abs=1e-6)] * len(rows)


def test_classes_without_labels_are_numbers(folder: Folder) -> None:
    assert list(load(folder(labels=None)).predict("know")) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the request holds no text"),
        (b"\xff\xfe", "not valid UTF-8: invalid start byte at byte 0"),
        ("<p></p>", "the text is empty: it has no words"),
        (" \n!?", "the text is empty: it has no words"),
        ("日本", "the text is empty: it has no words"),
        ({"text": "know"}, "the request holds no text"),
        (["know"], "expected a text, got list"),
        (5, "expected a text, got int"),
    ],
)
def test_what_is_no_text_is_refused(folder: Folder, body: Any, message: str) -> None:
    with pytest.raises(PredictionException) as caught:
        load(folder()).predict(body)
    assert caught.value.error_code == 400
    assert message in caught.value.message


# --- vocabularies ---


@pytest.mark.parametrize(
    "vocabulary", [dict(zip(TOKENS, range(12), strict=True)), OrderedDict(zip(TOKENS, range(12), strict=True))]
)
def test_a_dict_is_a_vocabulary_as_a_list_is(folder: Folder, vocabulary: Any) -> None:
    harness = load(folder(vocabulary))
    for text, (_, ids) in TEXTS.items():
        assert harness.predict(text) == pytest.approx(plain_answer(ids), abs=1e-6)


def test_unknown_tokens_have_the_index_of_unk(folder: Folder) -> None:
    assert load(folder()).predict("nobody") == pytest.approx(plain_answer([0]), abs=1e-6)


def test_unknown_tokens_are_refused_where_there_is_no_unk(folder: Folder) -> None:
    harness = load(folder({"know": 4, "the": 5, "know the": 10}))
    assert harness.predict("know the") == pytest.approx(plain_answer([4, 5, 10]), abs=1e-6)
    with pytest.raises(PredictionException, match="'who', 'may', 'know who', 'who may', 'may the'") as caught:
        harness.predict("know who may the")
    assert caught.value.error_code == 400
    with pytest.raises(PredictionException, match="'a', 'a', 'a', 'a', 'a' and 7 more"):
        harness.predict("a a a a a a know")


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        ({"a": "b"}, "must map tokens to indices; found 'a': 'b'"),
        ({"a": -1}, "must map tokens to indices"),
        ({"a": True}, "must map tokens to indices"),
        ({1: 1}, "must map tokens to indices; found 1: 1"),
        ([["a"]], r"found \['a'\]: 0"),
        ([], "holds no token"),
        (5, "holds a int, not a dict or list of tokens"),
        ({"far": 40}, "gives 'far' the index 40, but the model's embedding has 40 rows"),
    ],
)
def test_what_is_no_vocabulary(folder: Folder, vocabulary: Any, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load(folder(vocabulary))


def test_an_archive_without_a_vocabulary(folder: Folder) -> None:
    path = folder()
    (path / "source_vocab.pt").unlink()
    with pytest.raises(ModelLoadError, match=r"^Missing the source_vocab file\. .*Add source_vocab.pt to the archive"):
        load(path)


def test_a_broken_vocabulary(folder: Folder) -> None:
    path = folder()
    whole = (path / "source_vocab.pt").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"text"):
        (path / "source_vocab.pt").write_bytes(content)
        with pytest.raises(ModelLoadError, match=r"source_vocab\.pt"):
            load(path)


class LookedUp:
    """As torchtext's: an object that is asked for a token, and raises RuntimeError for those it does not have."""

    def __getitem__(self, token: str) -> int:
        if token != "know":
            raise RuntimeError("Token not found")
        return 4


def test_pickled_vocabularies_need_leave(folder: Folder) -> None:
    path = folder(LookedUp())
    with pytest.raises(ModelLoadError, match=r"torch.save\(vocab.get_itos\(\).* handler: {allow_pickle: true}"):
        load(path)
    harness = load(path, config={"handler": {"allow_pickle": True}})
    assert harness.predict("know") == pytest.approx(plain_answer([4]), abs=1e-6)
    with pytest.raises(PredictionException, match="not in the model's vocabulary: 'nothing'"):
        harness.predict("nothing")


def test_pickled_vocabularies_need_the_package_they_come_from(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LookedUp, "__module__", "torchtext_gone")
    module = types.ModuleType("torchtext_gone")
    module.LookedUp = LookedUp  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchtext_gone", module)
    path = folder(LookedUp())
    monkeypatch.delitem(sys.modules, "torchtext_gone")
    with pytest.raises(ModelLoadError, match=r"is a pickle that needs torchtext_gone. Install it, or save its tokens"):
        load(path, config={"handler": {"allow_pickle": True}})


def test_the_vocabulary_that_old_manifests_name(folder: Folder) -> None:
    assert load(folder(name="words.pt"), sourceVocab="words.pt").predict("know")


def test_subclasses_say_where_the_vocabulary_is(folder: Folder) -> None:
    class Elsewhere(TextClassifier):
        def get_source_vocab_path(self, ctx: Any) -> str:
            return str(Path(ctx.system_properties["model_dir"]) / "mine.pt")

    assert load(folder(name="mine.pt"), Elsewhere).predict("know")


# --- explanations ---


def test_explanations_of_a_batch(folder: Folder) -> None:
    harness = load(folder())
    bodies = [{"data": text, "target": target} for target, text in enumerate(TEXTS)]
    explanations = harness.explain_batch(bodies)
    assert len(explanations) == 3
    for target, (explanation, (words, ids)) in enumerate(zip(explanations, TEXTS.values(), strict=True)):
        assert list(explanation) == ["importances", "words"]
        assert explanation["words"] == words
        (row,) = plain_importances(ids, target)
        assert explanation["importances"] == [pytest.approx(row, abs=1e-5)]


def test_the_target_is_0_unless_given(folder: Folder) -> None:
    harness = load(folder())
    (row,) = plain_importances([4], 0)
    assert harness.explain("know")["importances"] == [pytest.approx(row, abs=1e-5)]
    form = harness.handler.handle([{"data": bytearray(b"know"), "target": bytearray(b"2")}], harness.context)[0]
    assert form["importances"] == [pytest.approx(plain_importances([4], 2)[0], abs=1e-5)]


@pytest.mark.parametrize("target", [3, -1, "two", 1.5, [1]])
def test_targets_that_are_no_class(folder: Folder, target: Any) -> None:
    with pytest.raises(PredictionException, match=r"target: .*from 0 to 2") as caught:
        load(folder()).explain({"data": "know", "target": target})
    assert caught.value.error_code == 400


def test_a_model_without_an_embedding_predicts_but_does_not_explain(folder: Folder) -> None:
    path = folder()
    (path / "model.py").write_text(MODEL_FILE.replace("embedding", "vectors"))
    state = {name.replace("embedding", "vectors"): tensor for name, tensor in weights().items()}
    torch.save(state, path / "model.pt")
    harness = load(path)
    assert harness.predict("know") == pytest.approx(plain_answer([4]), abs=1e-6)
    with pytest.raises(PredictionException, match="Bag has no attribute embedding") as caught:
        harness.explain("know")
    assert caught.value.error_code == 501


# --- handlers that derive from these ---


def test_a_subclass_written_for_one_text_at_a_time(folder: Folder) -> None:
    class Single(TextClassifier):
        def preprocess(self, data: Any) -> Any:
            words = data[0]["body"].decode().split()
            return torch.as_tensor([self.source_vocab[word] for word in words], device=self.device), words

        def postprocess(self, data: Any) -> Any:
            return [row.argmax().item() for row in data]

        def get_insights(self, text_preprocess: Any, _: Any, target: int = 0) -> Any:
            ids, words = text_preprocess
            return [{"ids": ids.tolist(), "words": words, "target": target}]

    harness = load(folder(), Single)
    assert harness.predict("know the cafe") == int(plain_scores([4, 5, 6]).argmax())
    assert harness.explain("know the") == {"ids": [4, 5], "words": ["know", "the"], "target": 0}


def test_the_base_is_for_subclasses(folder: Folder) -> None:
    class Counter(TextHandler):
        def preprocess(self, data: Any) -> Any:
            return [self._tokenize(self.request_text(row)) for row in data]

        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            return data

        def postprocess(self, data: Any) -> Any:
            return [len(tokens) for tokens in data]

    harness = load(folder(), Counter)
    assert harness.predict_batch(["It is. Is it?", "yes"]) == [6, 1]
    assert isinstance(harness.handler.model.embedding, nn.EmbeddingBag)


def test_what_the_methods_do() -> None:
    handler = TextHandler()
    assert handler._remove_html_tags('<a href="x">A</a> &lt;b&#62;') == "A b"
    assert handler._expand_contractions("I'd say Bob's can't") == "I would say Bobs cannot"
    assert handler._remove_accented_characters("Crème brûlée № ½") == "Creme brulee No 12"
    assert handler._remove_punctuation("a-b, c!") == "ab c"
    assert handler._remove_puncutation("a.b") == "ab"
    assert handler._tokenize("Don't go.") == ["don", "'", "t", "go", "."]
    assert handler.get_word_token(["ĠGood", "day"]) == ["Good", "day"]
    summarized = handler.summarize_attributions(torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
    assert torch.allclose(summarized, torch.full((2, 2), 0.5 / 2**0.5))


# --- contractions, tokens, n-grams ---


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("don't", "do not"),
        ("Don't", "Do not"),
        ("WON'T", "Will not"),
        ("ain't it", "is not it"),
        ("'cause", "because"),
        ("i'd've gone", "i would have gone"),
        ("y'all'd've", "you all would have"),
        ("she's what's there", "she is what is there"),
        ("five o'clock", "five of the clock"),
        ("shouldn't've we've", "should not have we have"),
        ("let's", "let us"),
        ("dogs' tails", "dogs tails"),
        ("it'ſ", "itſ"),
        ("", ""),
    ],
)
def test_contractions(text: str, expanded: str) -> None:
    assert expand_contractions(text) == expanded


def test_no_contraction_stands_for_another() -> None:
    assert len(CONTRACTION_MAP) > 100
    assert all("'" in short and "'" not in long and short == short.lower() for short, long in CONTRACTION_MAP.items())


def test_tokenizers() -> None:
    basic = get_tokenizer("basic_english")
    assert basic("You can now install it using pip!") == ["you", "can", "now", "install", "it", "using", "pip", "!"]
    assert basic('He said: "No; (never)."<br />Why?') == ["he", "said", "no", "(", "never", ")", ".", "why", "?"]
    assert get_tokenizer(None)(" A  b\n") == ["A", "b"]
    with pytest.raises(ValueError, match="tokenizer 'spacy' is not known; known: None, 'basic_english'"):
        get_tokenizer("spacy")
    with pytest.raises(ValueError, match="for the language 'en' only, not for 'de'"):
        get_tokenizer("basic_english", "de")


def test_ngrams() -> None:
    tokens = ["here", "we", "are"]
    assert list(ngrams_iterator(tokens, 1)) == tokens
    assert list(ngrams_iterator(tokens, 2)) == [*tokens, "here we", "we are"]
    assert list(ngrams_iterator(tokens, 4)) == [*tokens, "here we", "we are", "here we are"]
    assert list(ngrams_iterator([], 2)) == []
