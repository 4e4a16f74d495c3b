"""One label per token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from handlers.transformer.attribution import words
from handlers.transformer.encoding import Encoded
from handlers.transformer.inputs import Item
from handlers.transformer.labels import label_of, load_labels
from handlers.transformer.settings import ExplanationSettings
from handlers.transformer.targets import pair_target
from handlers.transformer.tasks.base import EncoderTask, LoadedModel

# The label of a token that belongs to no entity.
OUTSIDE = "O"


class TokenClassification(EncoderTask):
    """Answers (token, label) pairs of the text's own tokens: special tokens and padding are left out.

    With `output: scores`:

    * `entities`: for every token with a label other than "O": `entity`, `score`, `word` (the text itself), `start` and
      `end` (characters of the text) and `index` (position of the token, counted from the first special token);
    * `tokens`: `token`, `label` and `score` of every token of the text.

    Words and offsets are None for tokenizers that do not know them.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self.labels = load_labels(model.model_dir, getattr(self.network.config, "id2label", None))

    def part_answers(self, items: Sequence[Item], part: Encoded, output: tuple[Tensor, ...]) -> list[Any]:
        scores, labels = output[0].softmax(dim=-1).max(dim=-1)
        answer = self._pairs if self.settings.output == "plain" else self._scores
        return [
            answer(item, part, index, labels[index].tolist(), scores[index].tolist())
            for index, item in enumerate(items)
        ]

    def part_explanations(
        self, items: Sequence[Item], part: Encoded, options: ExplanationSettings
    ) -> list[dict[str, Any]]:
        """`words`, `importances` and `delta` for the label of one token.

        `target` is (token position, label); without one the most confident token of an entity is explained, or the
        most confident token where there is no entity.
        """
        logits = self.forward(part)[0]
        targets = [self._target(item, part, index, logits[index]) for index, item in enumerate(items)]
        found = self._attribution(part, options).importances(0, targets)
        return [
            {"words": words(part.tokens(index)), "importances": one.values, "delta": one.delta}
            for index, one in enumerate(found)
        ]

    def _target(self, item: Item, encoded: Encoded, index: int, logits: Tensor) -> tuple[int, int]:
        target = item.options.get("target")
        if target is not None:
            return pair_target(target, ("token", "label"), (len(encoded.ids(index)), logits.shape[-1]))
        own = torch.tensor(_own_tokens(encoded, index))
        if not len(own):
            own = torch.arange(len(encoded.ids(index)))
        scores, labels = logits[own.to(logits.device)].softmax(dim=-1).max(dim=-1)
        entity = torch.tensor([label_of(self.labels, label) != OUTSIDE for label in labels.tolist()])
        best = int((scores.cpu() + entity).argmax())
        return int(own[best]), int(labels[best])

    def _pairs(self, item: Item, encoded: Encoded, index: int, labels: list[int], scores: list[float]) -> Any:
        tokens = encoded.tokens(index)
        return [(tokens[at], label_of(self.labels, labels[at])) for at in _own_tokens(encoded, index)]

    def _scores(self, item: Item, encoded: Encoded, index: int, labels: list[int], scores: list[float]) -> Any:
        tokens = encoded.tokens(index)
        own = _own_tokens(encoded, index)
        named = {at: label_of(self.labels, labels[at]) for at in own}
        return {
            "entities": [
                {"entity": named[at], "score": scores[at], **_place(item.text, encoded, index, at), "index": at}
                for at in own
                if named[at] != OUTSIDE
            ],
            "tokens": [{"token": tokens[at], "label": named[at], "score": scores[at]} for at in own],
        }


def _own_tokens(encoded: Encoded, index: int) -> list[int]:
    return [at for at, special in enumerate(encoded.is_special(index)) if not special]


def _place(text: str, encoded: Encoded, index: int, at: int) -> dict[str, Any]:
    offsets = encoded.offsets(index)
    if offsets is None:
        return {"word": None, "start": None, "end": None}
    start, end = offsets[at]
    return {"word": text[start:end], "start": start, "end": end}
