"""Makes the name finder: all-MiniLM-L6-v2 with a label per token, fine-tuned on data/train.txt."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from model_making import Training, fit, freeze_lower_layers, make_once, minilm_folder, seed_everything  # noqa: E402

TRAIN_FILE, TEST_FILE = HERE / "data" / "train.txt", HERE / "data" / "test.txt"
LABELS = ("O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
COPIES = 4
FROZEN_LAYERS = 2
TRAINING = Training(epochs=4, batch_size=16, learning_rate=2e-4)

# The loss leaves out tokens with this label.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a sentence: words that are a name of some `kind` (PER, ORG, LOC, MISC), or that are none (O)."""

    words: tuple[str, ...]
    kind: str


Sentence = list[Piece]


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("model"), show_default=True)
def main(output: Path) -> None:
    """Train the name finder and save it, unless OUTPUT is up to date. Takes about a minute on one core."""
    make_once(output, [Path(__file__), TRAIN_FILE, TEST_FILE], _make)


def read_sentences(path: Path) -> list[Sentence]:
    """One sentence per line, names marked like `[LOC Sierra Leone]`."""
    return [_parse(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _make(folder: Path) -> dict[str, Any]:
    train, test = read_sentences(TRAIN_FILE), read_sentences(TEST_FILE)
    seed_everything(1)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModelForTokenClassification.from_pretrained(
        minilm_folder(), id2label=dict(enumerate(LABELS)), label2id={label: at for at, label in enumerate(LABELS)}
    )
    freeze_lower_layers(model, FROZEN_LAYERS)
    sentences = [*train, *_with_other_names(train, COPIES)]
    print(f"Fine-tuning on {len(sentences)} sentences, {len(train)} of them written by hand", flush=True)
    fit(model, sentences, partial(_encode, tokenizer), TRAINING)
    precision, recall = _scores(model, tokenizer, test)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"test_precision": round(precision, 3), "test_recall": round(recall, 3)}


def _parse(line: str) -> Sentence:
    parts = re.findall(r"\[([A-Z]+) ([^]]+)\]|([^\[]+)", line)
    return [Piece(_words(name or text), kind or "O") for kind, name, text in parts if _words(name or text)]


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+|[^\w\s]", text))


def _with_other_names(sentences: list[Sentence], copies: int) -> list[Sentence]:
    """Copies of all sentences in which each name is replaced by a name of its kind from another sentence."""
    names: dict[str, list[Piece]] = {}
    for piece in (piece for sentence in sentences for piece in sentence if piece.kind != "O"):
        names.setdefault(piece.kind, []).append(piece)
    return [
        [random.choice(names[piece.kind]) if piece.kind in names else piece for piece in sentence]
        for sentence in sentences * copies
    ]


def _encode(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sentence]) -> Mapping[str, Tensor]:
    words = [[word for piece in sentence for word in piece.words] for sentence in sentences]
    encoded = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
    rows = [_token_labels(sentence, encoded.word_ids(row)) for row, sentence in enumerate(sentences)]
    return {**encoded, "labels": torch.tensor(rows)}


def _token_labels(sentence: Sentence, word_ids: list[int | None]) -> list[int]:
    labels = [label for piece in sentence for label in _word_labels(piece)]
    rows = []
    before = None
    for word in word_ids:
        label = IGNORED if word is None else labels[word]
        # Only the first token of a name begins it.
        continues = word is not None and word == before and label != IGNORED and LABELS[label].startswith("B-")
        rows.append(label + 1 if continues else label)
        before = word
    return rows


def _word_labels(piece: Piece) -> list[int]:
    if piece.kind == "O":
        return [0] * len(piece.words)
    begin = LABELS.index(f"B-{piece.kind}")
    return [begin] + [begin + 1] * (len(piece.words) - 1)


@torch.inference_mode()
def _scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sentence]
) -> tuple[float, float]:
    """Precision and recall of whole names: right in the first token, the last one and the kind."""
    inputs = dict(_encode(tokenizer, sentences))
    wanted = _names_in(inputs.pop("labels"))
    predicted = model(**inputs).logits.argmax(dim=-1)
    found = _names_in(predicted.masked_fill(inputs["attention_mask"] == 0, 0))
    return len(found & wanted) / max(1, len(found)), len(found & wanted) / len(wanted)


def _names_in(rows: Tensor) -> set[tuple[int, int, int, str]]:
    """(row, first token, last token, kind) of every run of tokens with labels of one kind that a B- label begins."""
    names = set()
    for row, labels in enumerate(rows.tolist()):
        named = ["O" if label == IGNORED else LABELS[label] for label in labels] + ["O"]
        for start in (at for at, label in enumerate(named) if label.startswith("B-")):
            kind = named[start][2:]
            end = next(at for at in range(start + 1, len(named)) if named[at] != f"I-{kind}")
            names.add((row, start, end - 1, kind))
    return names


if __name__ == "__main__":
    main()
