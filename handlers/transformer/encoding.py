"""Texts to padded tensors, once for a whole batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase

from handlers.errors import PredictionException
from handlers.transformer.grouping import by_length
from handlers.transformer.inputs import Item


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenized batch of n texts, or those of its texts that the model is given together, padded to L tokens.

    Attributes:
        inputs: model inputs by name, each int64 of shape (n, L): input_ids, attention_mask and, for models that know
            segments, token_type_ids (which the original handler left out: pairs are told apart better with them).
        unpadded: what the tokenizer said, one list per text of the whole batch.
        rows: where the n texts stand in the whole batch.
        tokenizer: turns ids back into tokens.
    """

    inputs: dict[str, Tensor]
    unpadded: BatchEncoding
    rows: Sequence[int]
    tokenizer: PreTrainedTokenizerBase

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def token_count(self) -> int:
        """Of all texts, special tokens included, padding not."""
        return sum(len(self.ids(index)) for index in range(len(self)))

    @property
    def padding_count(self) -> int:
        return self.inputs["input_ids"].numel() - self.token_count

    def ids(self, index: int) -> list[int]:
        """Token ids of one text, special tokens included, padding not."""
        ids: list[int] = self.unpadded["input_ids"][self.rows[index]]
        return ids

    def tokens(self, index: int) -> list[str]:
        return list(self.tokenizer.convert_ids_to_tokens(self.ids(index)))

    def is_special(self, index: int) -> list[bool]:
        return [bool(flag) for flag in self.unpadded["special_tokens_mask"][self.rows[index]]]

    def offsets(self, index: int) -> list[tuple[int, int]] | None:
        """Characters of each token in its text; None for tokenizers written in Python, which do not know."""
        return self.unpadded["offset_mapping"][self.rows[index]] if self.tokenizer.is_fast else None

    def of_context(self, index: int) -> list[bool]:
        """Which tokens belong to the second text of a pair."""
        return [part == 1 for part in self.unpadded.sequence_ids(self.rows[index])]


class TextEncoder:
    """Tokenizes, truncates and pads.

    Args:
        tokenizer: the archive's.
        max_length: texts are cut to that many tokens, special tokens included; of a pair the longer text is cut.
        input_names: inputs the model takes; others the tokenizer makes are dropped.
        padded_lengths: the only lengths batches are padded to, ascending; empty pads to the longest text.
        device: where the tensors go.
        pass_cost: tokens that one more forward pass costs; None never splits a batch.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        input_names: Collection[str],
        padded_lengths: Sequence[int] = (),
        device: torch.device | None = None,
        pass_cost: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._input_names = [name for name in tokenizer.model_input_names if name in input_names]
        self._padded_lengths = padded_lengths
        self._device = device
        self._pass_cost = pass_cost

    def encode(self, items: Sequence[Item]) -> Encoded:
        """Tokenizes all texts at once.

        Raises:
            PredictionException: 400 for a text without a single token.
        """
        return self._encoded(self._tokenized(items), range(len(items)))

    def encode_by_length(self, items: Sequence[Item]) -> list[Encoded]:
        """The same in groups of similar length, where that saves more padding than it costs passes."""
        return self._in_groups(items, None if self._padded_lengths else self._pass_cost)

    def encode_for_steps(self, items: Sequence[Item], steps: int) -> list[Encoded]:
        """The same for passes that hold every text `steps` times, padded to the longest whatever is compiled."""
        cost = self._pass_cost if self._pass_cost is None else max(1, self._pass_cost // steps)
        return self._in_groups(items, cost, pad_to_longest=True)

    def _in_groups(self, items: Sequence[Item], pass_cost: int | None, pad_to_longest: bool = False) -> list[Encoded]:
        unpadded = self._tokenized(items)
        groups: list[Sequence[int]] = [range(len(items))]
        if pass_cost is not None and len(items) > 1:
            groups = [*by_length(list(map(len, unpadded["input_ids"])), pass_cost)]
        return [self._encoded(unpadded, rows, pad_to_longest) for rows in groups]

    def _tokenized(self, items: Sequence[Item]) -> BatchEncoding:
        unpadded: BatchEncoding = self.tokenizer(
            *self._texts(items),
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=self.tokenizer.is_fast,
        )
        if not all(unpadded["input_ids"]):
            raise PredictionException("the text is empty: it has no tokens", 400)
        return unpadded

    def _encoded(self, unpadded: BatchEncoding, rows: Sequence[int], pad_to_longest: bool = False) -> Encoded:
        longest = max(len(unpadded["input_ids"][row]) for row in rows)
        length = longest if pad_to_longest else self._padded(longest)
        inputs = {name: self._tensor([unpadded[name][row] for row in rows], name, length) for name in self._input_names}
        return Encoded(inputs, unpadded, rows, self.tokenizer)

    def _texts(self, items: Sequence[Item]) -> list[list[str]]:
        texts = [item.text for item in items]
        contexts = [item.context for item in items if item.context is not None]
        return [self._shortened(texts), self._shortened(contexts)] if contexts else [texts]

    def _shortened(self, texts: list[str]) -> list[str]:
        """The texts of pairs without the part that truncation drops anyway.

        The tokenizers library also builds every overflowing piece, and for pairs every combination of pieces: without
        this a long question with a long context takes half a minute.
        """
        # Twice as many as can be kept, so that the cut itself is never among the tokens that are.
        kept = 2 * self.max_length
        return [self._cut(text, kept) if len(text) > 4 * kept else text for text in texts]

    def _cut(self, text: str, tokens: int) -> str:
        encoded = self.tokenizer(text, truncation=True, max_length=tokens, return_offsets_mapping=True)
        return text[: max(end for _, end in encoded["offset_mapping"])]

    def _padded(self, longest: int) -> int:
        return next((length for length in self._padded_lengths if length >= longest), longest)

    def _tensor(self, rows: list[list[int]], name: str, length: int) -> Tensor:
        padding = self.tokenizer.pad_token_id if name == "input_ids" else 0
        padded = [_pad(row, [padding] * (length - len(row)), self.tokenizer.padding_side) for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=self._device)


def _pad(row: list[int], padding: list[int], side: str) -> list[int]:
    return padding + row if side == "left" else row + padding
