"""`text_classifier`: the probability of each class of a text, by a bag of its words and pairs of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from handlers.errors import PredictionException
from handlers.fields import index_target, request_fields, target_of
from handlers.labels import map_class_to_label
from handlers.text import TextHandler
from handlers.timing import timed
from handlers.tokenization import ngrams_iterator
from handlers.vocabulary import indices_of

# Indices of a text's n-grams, int64 [n-grams], and its words.
Text = tuple[torch.Tensor, list[str]]


class TextClassifier(TextHandler):
    """For models called with `(ids, offsets)`, as `torch.nn.EmbeddingBag` takes them, that give one score per class.

    Attributes:
        ngrams: up to how many neighbouring words make a token of the vocabulary.
    """

    ngrams = 2
    batch_explanations = True

    @timed
    def preprocess(self, data: Sequence[Any]) -> list[Text] | Text:
        """One text per request; subclasses that take one request at a time return that one by itself.

        Raises:
            PredictionException: 400 for a request without a text that the model's vocabulary has words for.
        """
        return [self._text(self.request_text(row)) for row in data]

    def inference(self, data: list[Text] | Text, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Scores [requests, classes]."""
        ids = [ids for ids, _ in _listed(data)]
        offsets = torch.tensor([0, *(len(each) for each in ids[:-1])], device=self.device).cumsum(0)
        scores: torch.Tensor = super().inference(torch.cat(ids), offsets)
        return scores

    @timed
    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """`{label: probability}` for each request, all classes in their order."""
        return map_class_to_label(data.softmax(dim=1).tolist(), self.mapping)

    def explain_handle(self, data_preprocess: list[Text] | Text, raw_data: Sequence[Any]) -> list[Any]:
        """`get_insights` for each request, with the target that it names.

        Raises:
            PredictionException: 400 for a target that is no class of the model.
        """
        texts = _listed(data_preprocess)
        classes = self.inference(data_preprocess).shape[1]
        fields = [request_fields(row) for row in raw_data]
        targets = [index_target(target_of(each), classes) for each in fields]
        return [
            insight
            for text, each, target in zip(texts, fields, targets, strict=False)
            for insight in self.get_insights(text, each.get("data") or each.get("body"), target)
        ]

    def get_insights(self, text_preprocess: Text, _: Any, target: int = 0) -> list[Any]:
        """Layer integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) on the embedding.

        The baseline is a text of as many tokens with index 0. `importances` has a row for each row that the embedding
        gives; a bag gives one for the whole text.
        """
        ids, words = text_preprocess
        offsets = torch.tensor([0], device=ids.device)
        attributions = self.lig.attribute(ids, torch.zeros_like(ids), additional_forward_args=(offsets,), target=target)
        return [
            {"importances": self.summarize_attributions(attributions).tolist(), "words": self.get_word_token(words)}
        ]

    def _text(self, text: str) -> Text:
        words = self._words(text)
        if not words:
            raise PredictionException("the text is empty: it has no words", 400)
        ids = indices_of(self.source_vocab, ngrams_iterator(words, self.ngrams))
        return torch.tensor(ids, device=self.device), words

    def _words(self, text: str) -> list[str]:
        text = self._expand_contractions(self._remove_html_tags(text).lower())
        return self._tokenize(self._remove_punctuation(self._remove_accented_characters(text)))


def _listed(texts: list[Text] | Text) -> list[Text]:
    return [texts] if isinstance(texts, tuple) else texts
