"""DistilBERT's shape without a server: `python -m benchmarks.attention_loops`, a process of its own.

How texts were served before: every text padded to max_length, attention step by step ("eager"). How they are now:
texts of similar length together, padded to their longest, with PyTorch's fused attention ("sdpa"). Weights and tokens
are random, of a fixed seed: what they are changes nothing about the time.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import transformers

from benchmarks.texts import sentences

# max_length of the original handler's example.
_MAX_TOKENS = 150
_SPECIAL_TOKENS = 2
_SEED = 13
# Padded to max_length each takes a processor a seventh of a second.
_TEXTS = 64

Way = Literal["eager", "sdpa"]
Batch = dict[str, Any]


def lengths() -> list[int]:
    """Tokens of some sentences: their words, nearly each of them one token, and the special ones."""
    return [len(text.split()) + _SPECIAL_TOKENS for text in sentences()[:_TEXTS]]


def padded_batches(way: Way, size: int, device: str) -> list[Batch]:
    """All of them: in order of arrival to max_length, or by length to the longest of each batch."""
    known = lengths() if way == "eager" else sorted(lengths())
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    return [_batch(group, _MAX_TOKENS if way == "eager" else max(group), device) for group in groups]


def _batch(group: Sequence[int], padded: int, device: str) -> Batch:
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(1000, 20_000, (len(group), padded), generator=generator)
    mask = (torch.arange(padded)[None, :] < torch.tensor(group)[:, None]).long()
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def texts_per_s(way: Way, size: int, device: str, seconds: float) -> float:
    """Whole passes over all texts until the time is up."""
    torch.manual_seed(_SEED)
    # Untyped, like most of transformers.
    auto_model: Any = transformers.AutoModelForSequenceClassification
    model = auto_model.from_config(transformers.DistilBertConfig(), attn_implementation=way)
    model.eval().to(device)
    batches = padded_batches(way, size, device)
    with torch.inference_mode():
        _run(model, batches[: 1 + len(batches) // 8])
        passes, started_s = 0, time.monotonic()
        while time.monotonic() - started_s < seconds:
            _run(model, batches)
            passes += 1
    return passes * _TEXTS / (time.monotonic() - started_s)


def _run(model: Callable[..., Any], batches: Sequence[Batch]) -> None:
    for batch in batches:
        # As an answer would be, the result is fetched: it waits for a GPU.
        model(**batch).logits.softmax(dim=-1).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.attention_loops")
    parser.add_argument("way", choices=["eager", "sdpa"])
    parser.add_argument("size", type=int)
    parser.add_argument("device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rate = texts_per_s(arguments.way, arguments.size, arguments.device, arguments.seconds)
    print(json.dumps({"requests_per_s": rate}))


if __name__ == "__main__":
    main()
