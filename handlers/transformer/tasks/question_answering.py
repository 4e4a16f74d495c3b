"""The span of a context that answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from handlers.errors import ModelLoadError, PredictionException
from handlers.transformer.attribution import words
from handlers.transformer.encoding import Encoded
from handlers.transformer.inputs import Item
from handlers.transformer.settings import ExplanationSettings
from handlers.transformer.targets import evaluated, pair_target
from handlers.transformer.tasks.base import EncoderTask, LoadedModel


@dataclass(frozen=True, slots=True)
class Span:
    """Token positions of an answer, both included, and the probability of start times that of end."""

    start: int
    end: int
    score: float


class QuestionAnswering(EncoderTask):
    """Answers text, or with `output: scores` {"answer", "score", "start", "end"}.

    The span is the best one by start logit + end logit among those that lie in the context, do not end before they
    start and are no longer than max_answer_length tokens. Where the most likely start and end form such a span it is
    theirs, as in the original handler; where they do not (the original then answered nothing, or pieces of the
    question), it is the best valid one.

    The plain answer is made from tokens, as in the original (lower case for lower-casing tokenizers). `answer` of the
    scores is the context's own text, which begins at character `start` and ends before `end`; `score` is the product of
    the softmaxes over the tokens of the context.
    """

    pair = True

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        if not model.tokenizer.is_fast:
            raise ModelLoadError(
                "mode question_answering needs a tokenizer that knows the characters of its tokens: "
                "add tokenizer.json to --extra-files"
            )

    def part_answers(self, items: Sequence[Item], part: Encoded, output: tuple[Tensor, ...]) -> list[Any]:
        spans = self._spans(part, output)
        answer = self._plain if self.settings.output == "plain" else self._scores
        return [answer(item, part, index, spans[index]) for index, item in enumerate(items)]

    def part_explanations(
        self, items: Sequence[Item], part: Encoded, options: ExplanationSettings
    ) -> list[dict[str, Any]]:
        """`words` of the encoded pair and importances for the start and for the end of the answer.

        `target` is a token position for both, or (start, end); without one the predicted span is explained.
        """
        targets = self._targets(items, part)
        attribution = self._attribution(part, options)
        starts = attribution.importances(0, [start for start, _ in targets])
        ends = attribution.importances(1, [end for _, end in targets])
        return [
            {
                "words": words(part.tokens(index)),
                "importances_answer_start": start.values,
                "importances_answer_end": end.values,
                "delta_start": start.delta,
                "delta_end": end.delta,
            }
            for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]

    def _targets(self, items: Sequence[Item], encoded: Encoded) -> list[tuple[int, int]]:
        spans = self._spans(encoded, self.forward(encoded))
        return [self._target(item, len(encoded.ids(index)), spans[index]) for index, item in enumerate(items)]

    def _target(self, item: Item, length: int, span: Span) -> tuple[int, int]:
        target = evaluated(item.options.get("target"))
        if target is None:
            return span.start, span.end
        # One position means both, as in the original.
        both = [target, target] if isinstance(target, int) else target
        return pair_target(both, ("start", "end"), (length, length))

    def _spans(self, encoded: Encoded, output: tuple[Tensor, ...]) -> list[Span]:
        starts, ends = output[0].cpu(), output[1].cpu()
        return [
            best_span(starts[index], ends[index], encoded.of_context(index), self.settings.max_answer_length)
            for index in range(len(encoded))
        ]

    def _plain(self, item: Item, encoded: Encoded, index: int, span: Span) -> str:
        text: str = self.tokenizer.convert_tokens_to_string(encoded.tokens(index)[span.start : span.end + 1])
        return text

    def _scores(self, item: Item, encoded: Encoded, index: int, span: Span) -> dict[str, Any]:
        offsets = self._offsets(encoded, index)
        start, end = offsets[span.start][0], offsets[span.end][1]
        context = item.context or ""
        return {"answer": context[start:end], "score": span.score, "start": start, "end": end}

    @staticmethod
    def _offsets(encoded: Encoded, index: int) -> list[tuple[int, int]]:
        return encoded.offsets(index) or []


def best_span(start_logits: Tensor, end_logits: Tensor, of_context: list[bool], max_length: int | None) -> Span:
    """The span with the highest sum of logits.

    Args:
        start_logits: float32 (L,), L at least len(of_context); what lies beyond is padding.
        end_logits: float32 (L,).
        of_context: which tokens an answer may consist of.
        max_length: most tokens of an answer; None is no limit.

    Raises:
        PredictionException: 400 when no token of the context is left.
    """
    tokens = torch.tensor([at for at, inside in enumerate(of_context) if inside])
    if not len(tokens):
        raise PredictionException("the question leaves no room for the context within max_length", 400)
    starts, ends = start_logits[tokens], end_logits[tokens]
    sums = (starts[:, None] + ends[None, :]).triu()
    allowed = torch.ones_like(sums, dtype=torch.bool).triu()
    if max_length is not None:
        allowed = allowed.tril(max_length - 1)
    start, end = divmod(int(sums.masked_fill(~allowed, -torch.inf).argmax()), len(tokens))
    score = starts.softmax(dim=0)[start] * ends.softmax(dim=0)[end]
    return Span(int(tokens[start]), int(tokens[end]), float(score))
