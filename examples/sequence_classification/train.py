"""Makes the sentiment classifier: all-MiniLM-L6-v2 with a classification head, fine-tuned on data/train.tsv."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from model_making import Training, fit, freeze_lower_layers, make_once, minilm_folder, seed_everything  # noqa: E402

TRAIN_FILE, TEST_FILE = HERE / "data" / "train.tsv", HERE / "data" / "test.tsv"
LABELS = ("negative", "positive")
MAX_LENGTH = 64
FROZEN_LAYERS = 2
TRAINING = Training(epochs=4, batch_size=16, learning_rate=2e-4)


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("model"), show_default=True)
def main(output: Path) -> None:
    """Train the classifier and save it, unless OUTPUT is up to date. Takes about a minute on one core."""
    make_once(output, [Path(__file__), TRAIN_FILE, TEST_FILE], _make)


def read_sentences(path: Path) -> list[tuple[str, int]]:
    """Sentences with the index of their label, from a table with the columns `label` and `text`."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["text"], LABELS.index(row["label"])) for row in rows]


def _make(folder: Path) -> dict[str, Any]:
    train, test = read_sentences(TRAIN_FILE), read_sentences(TEST_FILE)
    seed_everything(1)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm_folder(), id2label=dict(enumerate(LABELS)), label2id={label: at for at, label in enumerate(LABELS)}
    )
    freeze_lower_layers(model, FROZEN_LAYERS)
    print(f"Fine-tuning on {len(train)} sentences, testing on {len(test)} others", flush=True)
    fit(model, train, partial(_encode, tokenizer), TRAINING)
    accuracy = _accuracy(model, tokenizer, test)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"test_accuracy": round(accuracy, 3)}


def _encode(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[tuple[str, int]]) -> Mapping[str, Tensor]:
    texts, labels = zip(*sentences, strict=True)
    encoded = tokenizer(list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    return {**encoded, "labels": torch.tensor(labels)}


@torch.inference_mode()
def _accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: list[tuple[str, int]]) -> float:
    inputs = _encode(tokenizer, sentences)
    right = model(**inputs).logits.argmax(dim=-1) == inputs["labels"]
    return float(right.float().mean())


if __name__ == "__main__":
    main()
