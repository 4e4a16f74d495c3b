"""Streaming a batch of texts. The expected texts are the tokenizer's own decoding of the generated tokens."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from handlers.batch_streamer import TextIteratorStreamerBatch

PROMPTS = ["one two", "so it goes"]


@pytest.fixture(scope="module")
def tokenizer(byte_level: Path) -> Any:
    return GPT2Tokenizer(
        str(byte_level / "vocab.json"), str(byte_level / "merges.txt"), pad_token="<pad>", padding_side="left"
    )


def test_texts_of_generate_arrive_row_by_row(tokenizer: Any) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).eval()
    encoded = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    arguments = {**encoded, "max_new_tokens": 12, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    expected = model.generate(**arguments)[:, encoded["input_ids"].shape[1] :]

    streamer = TextIteratorStreamerBatch(tokenizer, 2, skip_prompt=True, timeout=30, skip_special_tokens=True)
    writer = Thread(target=model.generate, kwargs={**arguments, "streamer": streamer})
    writer.start()
    steps = list(streamer)
    writer.join()

    assert all(len(step) == 2 and all(set(row) == {"text"} for row in step) for step in steps)
    texts = ["".join(step[index]["text"] for step in steps) for index in range(2)]
    assert all(texts)
    assert texts == tokenizer.batch_decode(expected, skip_special_tokens=True)


def test_the_prompt_is_streamed_unless_skipped(tokenizer: Any) -> None:
    prompts = tokenizer(PROMPTS, return_tensors="pt", padding=True)["input_ids"]
    streamer = TextIteratorStreamerBatch(tokenizer, 2, skip_special_tokens=True)
    streamer.put(prompts)
    streamer.end()
    steps = list(streamer)
    assert ["".join(step[index]["text"] for step in steps) for index in range(2)] == PROMPTS


def test_one_streamer_serves_batch_after_batch(tokenizer: Any) -> None:
    streamer = TextIteratorStreamerBatch(tokenizer, 2, skip_special_tokens=True)
    for prompts in (PROMPTS, PROMPTS[::-1], PROMPTS):
        streamer.put(tokenizer(prompts, return_tensors="pt", padding=True)["input_ids"])
        streamer.end()
        steps = list(streamer)
        assert ["".join(step[index]["text"] for step in steps) for index in range(2)] == prompts


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3,)])
def test_another_number_of_rows_is_refused(tokenizer: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="TextIteratorStreamerBatch batch size is set to 2"):
        TextIteratorStreamerBatch(tokenizer, 2).put(torch.zeros(shape, dtype=torch.long))
