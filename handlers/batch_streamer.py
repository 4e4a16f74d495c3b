"""`TextIteratorStreamerBatch`: the texts of a batch while `generate` is still writing them.

streamer = TextIteratorStreamerBatch(tokenizer, batch_size=len(texts), skip_special_tokens=True)
Thread(target=model.generate, kwargs={**encoded, "streamer": streamer}).start()
for texts in streamer:
    send_intermediate_predict_response(texts, context.request_ids, "Intermediate Prediction success", 200, context)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class TextIteratorStreamerBatch(BaseStreamer):
    """Iterates over lists with one `{"text": ...}` per row of the batch: whole words as they become complete.

    One object serves one batch after the other. A row that ended before the others goes on with empty texts if
    `skip_special_tokens=True` is among the arguments.

    Args:
        tokenizer: decodes the tokens.
        batch_size: number of rows.
        skip_prompt: leave out the tokens that `generate` was given.
        timeout: seconds to wait for the next tokens, then `queue.Empty` is raised; None waits for ever.
        decode_kwargs: arguments of `tokenizer.decode`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        batch_size: int,
        skip_prompt: bool = False,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ) -> None:
        # All rows get their tokens in the same calls, so their queues always hold the same number of texts.
        self._rows: list[Any] = [
            TextIteratorStreamer(tokenizer, skip_prompt, timeout, **decode_kwargs) for _ in range(batch_size)
        ]

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompts, shape (batch, tokens), or the next token of every row, shape (batch,).

        Raises:
            ValueError: another number of rows.
        """
        if len(value) != len(self._rows):
            raise ValueError(f"TextIteratorStreamerBatch batch size is set to {len(self._rows)}, got {len(value)} rows")
        for row, tokens in zip(self._rows, value, strict=True):
            row.put(tokens.reshape(-1))

    def end(self) -> None:
        """Gives out what is left and ends the iteration."""
        for row in self._rows:
            row.end()

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        return self

    def __next__(self) -> list[dict[str, str]]:
        # Every row's end has to be taken, or it would end the iteration over the next batch.
        texts = [text for row in self._rows if (text := next(row, None)) is not None]
        if len(texts) < len(self._rows):
            raise StopIteration
        return [{"text": text} for text in texts]
