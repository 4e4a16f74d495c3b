"""Makes the reader: all-MiniLM-L6-v2 that points at the answer in a text, fine-tuned on data/train.json."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from model_making import Training, fit, make_once, minilm_folder, seed_everything  # noqa: E402

TRAIN_FILE, TEST_FILE = HERE / "data" / "train.json", HERE / "data" / "test.json"
MAX_LENGTH = 150
LONGEST_ANSWER = 15
TRAINING = Training(epochs=6, batch_size=12, learning_rate=3e-4)


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and a text in which the answer begins at the character `start`."""

    question: str
    context: str
    answer: str
    start: int


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("model"), show_default=True)
def main(output: Path) -> None:
    """Train the reader and save it, unless OUTPUT is up to date. Takes one to two minutes on one core."""
    make_once(output, [Path(__file__), TRAIN_FILE, TEST_FILE], _make)


def read_pairs(path: Path) -> list[Pair]:
    texts = json.loads(path.read_text(encoding="utf-8"))
    return [
        Pair(asked["question"], text["context"], asked["answer"], text["context"].index(asked["answer"]))
        for text in texts
        for asked in text["questions"]
    ]


def fit_reader(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, training: Training = TRAINING) -> None:
    """Fine-tune a question answering model of any architecture on the pairs of this example."""
    pairs = read_pairs(TRAIN_FILE)
    model.base_model.embeddings.requires_grad_(False)
    print(f"Fine-tuning on {len(pairs)} questions", flush=True)
    fit(model, pairs, partial(_training_batch, tokenizer, [pair.context for pair in pairs]), training)


@torch.inference_mode()
def share_answered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Share of the test's questions whose answer is found word for word."""
    pairs = read_pairs(TEST_FILE)
    return sum(_answer(model, tokenizer, pair) == pair.answer.lower() for pair in pairs) / len(pairs)


def _make(folder: Path) -> dict[str, Any]:
    seed_everything(1)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModelForQuestionAnswering.from_pretrained(minilm_folder())
    fit_reader(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"test_exact_answers": round(share_answered(model, tokenizer), 3)}


def _training_batch(
    tokenizer: PreTrainedTokenizerBase, contexts: Sequence[str], pairs: Sequence[Pair]
) -> Mapping[str, Tensor]:
    return _encode(tokenizer, [_among_others(pair, contexts) if random.random() < 0.5 else pair for pair in pairs])


def _among_others(pair: Pair, contexts: Sequence[str]) -> Pair:
    """The question with another text before or after its own, so that finding the right sentence is learned, too."""
    other = random.choice(contexts)
    if random.random() < 0.5:
        return replace(pair, context=f"{pair.context} {other}")
    return replace(pair, context=f"{other} {pair.context}", start=pair.start + len(other) + 1)


def _encode(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    encoded = tokenizer(
        [pair.question for pair in pairs],
        [pair.context for pair in pairs],
        padding=True,
        truncation=True,
        max_length=MAX_LENGTH,
        return_tensors="pt",
    )
    starts = [encoded.char_to_token(row, pair.start, 1) for row, pair in enumerate(pairs)]
    ends = [encoded.char_to_token(row, pair.start + len(pair.answer) - 1, 1) for row, pair in enumerate(pairs)]
    return {**encoded, "start_positions": _positions(starts), "end_positions": _positions(ends)}


def _positions(tokens: Sequence[int | None]) -> Tensor:
    # An answer that was cut off is learned as position 0, which is no part of the text.
    return torch.tensor([token or 0 for token in tokens])


def _answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pair: Pair) -> str:
    encoded = tokenizer(pair.question, pair.context, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    output = model(**encoded)
    inside = torch.tensor([part == 1 for part in encoded.sequence_ids(0)])
    sums = output.start_logits[0][:, None] + output.end_logits[0][None, :]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1) & inside[:, None] & inside
    start, end = divmod(int(sums.masked_fill(~allowed, -torch.inf).argmax()), sums.shape[1])
    first, last = encoded.token_to_chars(0, start).start, encoded.token_to_chars(0, end).end
    return pair.context[first:last].lower()


if __name__ == "__main__":
    main()
