"""Makes the storyteller: a small GPT-2 with its own byte-level BPE, both learned from data/diary.txt."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from model_making import Training, fit, make_once, seed_everything  # noqa: E402

TEXT_FILE = HERE / "data" / "diary.txt"
VOCABULARY_SIZE = 600
POSITIONS = 256
WINDOW = 64
STRIDE = 8
END_OF_TEXT = "<|endoftext|>"
TRAINING = Training(epochs=25, batch_size=16, learning_rate=2e-3)


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("model"), show_default=True)
def main(output: Path) -> None:
    """Train the storyteller and save it, unless OUTPUT is up to date. Takes under a minute on one core."""
    make_once(output, [Path(__file__), TEXT_FILE], _make)


def learn_vocabulary() -> PreTrainedTokenizerBase:
    """A byte-level BPE of the diary."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        _text().split("\n\n"), vocab_size=VOCABULARY_SIZE, special_tokens=[END_OF_TEXT], show_progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
        bpe.save_model(folder)
        tokenizer: PreTrainedTokenizerBase = GPT2Tokenizer.from_pretrained(folder, model_max_length=POSITIONS)
        return tokenizer


def make_storyteller() -> tuple[GPT2LMHeadModel, PreTrainedTokenizerBase]:
    """The trained model and its tokenizer."""
    seed_everything(1)
    text = _text()
    tokenizer = learn_vocabulary()
    model = GPT2LMHeadModel(_config(tokenizer))
    ids = torch.tensor(tokenizer(text.replace("\n\n", " "))["input_ids"])
    windows = list(ids.unfold(0, WINDOW, STRIDE))
    print(f"Training on {len(text.split())} words, {len(windows)} windows of {WINDOW} tokens", flush=True)
    fit(model, windows, _batch, TRAINING)
    return model, tokenizer


def _make(folder: Path) -> dict[str, Any]:
    model, tokenizer = make_storyteller()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": model.num_parameters()}


def _text() -> str:
    return TEXT_FILE.read_text(encoding="utf-8")


def _config(tokenizer: PreTrainedTokenizerBase) -> GPT2Config:
    end: Any = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=128,
        n_layer=3,
        n_head=4,
        bos_token_id=end,
        eos_token_id=end,
    )


def _batch(windows: Sequence[Tensor]) -> Mapping[str, Tensor]:
    ids = torch.stack(list(windows))
    return {"input_ids": ids, "labels": ids}


if __name__ == "__main__":
    main()
