"""Explanations without a server: `python -m benchmarks.captum_alone FOLDER`, a process of its own.

Plain Captum with its defaults, one text after the other: layer integrated gradients of the predicted class on the
embeddings, 50 steps in one pass, padding between the special tokens as the baseline.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from captum.attr import LayerIntegratedGradients

_MAX_TOKENS = 128


class Explainer:
    """The classifier and its explanations."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        self._gradients = LayerIntegratedGradients(self._logits, self._model.bert.embeddings)

    def explain(self, text: str) -> list[float]:
        """What each token contributed to the predicted class; a vector of length 1."""
        ids = self._tokenizer(text, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")["input_ids"]
        mask = torch.ones_like(ids)
        with torch.no_grad():
            predicted = int(self._logits(ids, mask).argmax())
        attributions = self._gradients.attribute(
            ids, self._baseline(ids), target=predicted, additional_forward_args=(mask,), return_convergence_delta=True
        )[0]
        sums = attributions.sum(dim=-1)[0]
        importances: list[float] = (sums / sums.norm()).tolist()
        return importances

    def _logits(self, ids: Any, mask: Any) -> Any:
        return self._model(input_ids=ids, attention_mask=mask).logits

    def _baseline(self, ids: Any) -> Any:
        baseline = torch.full_like(ids, self._tokenizer.pad_token_id)
        baseline[0, 0], baseline[0, -1] = ids[0, 0], ids[0, -1]
        return baseline


def run(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Texts per second, and the importances of each."""
    explainer = Explainer(folder)
    explainer.explain(texts[0])
    started_s, cpu_before_s = time.monotonic(), time.process_time()
    importances = {text: explainer.explain(text) for text in texts}
    return {
        "requests_per_s": len(texts) / (time.monotonic() - started_s),
        "worker_us": (time.process_time() - cpu_before_s) / len(texts) * 1e6,
        "importances": importances,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.captum_alone")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--text", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(run(arguments.folder, arguments.text)))


if __name__ == "__main__":
    main()
