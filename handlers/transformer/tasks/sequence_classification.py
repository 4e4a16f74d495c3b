"""One label per text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from handlers.fields import index_target
from handlers.transformer.attribution import words
from handlers.transformer.encoding import Encoded
from handlers.transformer.inputs import Item
from handlers.transformer.labels import label_of, load_labels
from handlers.transformer.settings import ExplanationSettings
from handlers.transformer.tasks.base import EncoderTask, LoadedModel


class SequenceClassification(EncoderTask):
    """Answers a label, or with `output: scores` {"label", "score", "probabilities": {label: p}}.

    Probabilities stand in the order of the classes. They are a softmax; a sigmoid each where config.json says
    multi_label_classification or where there is one class only.
    """

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self.labels = load_labels(model.model_dir, getattr(self.network.config, "id2label", None))
        if getattr(self.network.config, "pad_token_id", 0) is None:
            # Decoder models find the last token of a padded text by it.
            self.network.config.pad_token_id = self.tokenizer.pad_token_id

    def part_answers(self, items: Sequence[Item], part: Encoded, output: tuple[Tensor, ...]) -> list[Any]:
        chosen = output[0].argmax(dim=-1).tolist()
        if self.settings.output == "plain":
            return [label_of(self.labels, index) for index in chosen]
        rows = self._probabilities(output[0]).tolist()
        return [self._scores(row, index) for row, index in zip(rows, chosen, strict=True)]

    def part_explanations(
        self, items: Sequence[Item], part: Encoded, options: ExplanationSettings
    ) -> list[dict[str, Any]]:
        """`words`, `importances` and `delta` for the class `target`, or the predicted one."""
        targets = self._targets(items, part)
        found = self._attribution(part, options).importances(0, targets)
        return [
            {"words": words(part.tokens(index)), "importances": one.values, "delta": one.delta}
            for index, one in enumerate(found)
        ]

    def _targets(self, items: Sequence[Item], encoded: Encoded) -> list[int]:
        logits = self.forward(encoded)[0]
        predicted = logits.argmax(dim=-1).tolist()
        wanted = [item.options.get("target") for item in items]
        return [
            predicted[index] if target is None else index_target(target, logits.shape[-1])
            for index, target in enumerate(wanted)
        ]

    def _probabilities(self, logits: Tensor) -> Tensor:
        independent = getattr(self.network.config, "problem_type", None) == "multi_label_classification"
        return logits.sigmoid() if independent or logits.shape[-1] == 1 else logits.softmax(dim=-1)

    def _scores(self, probabilities: list[float], chosen: int) -> dict[str, Any]:
        return {
            "label": label_of(self.labels, chosen),
            "score": probabilities[chosen],
            "probabilities": {label_of(self.labels, index): p for index, p in enumerate(probabilities)},
        }
