"""What every peer's application does with its requests; imported by the applications, inside the peers' processes.

The deployment comes in environment variables, see `peer.environment_of`.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODEL = os.environ["BENCHMARK_MODEL"]
BATCH_SIZE = int(os.environ["BENCHMARK_BATCH_SIZE"])
MAX_DELAY_MS = int(os.environ["BENCHMARK_MAX_DELAY_MS"])
PORT = int(os.environ["BENCHMARK_PORT"])

# Asked for by the benchmarks: which process runs the model.
WHO = "__pid__"
WHO_BODY = WHO.encode()


class Work:
    """The model. Texts give the texts themselves or probabilities, bodies give their lengths; always a whole batch."""

    def __init__(self) -> None:
        self._classifier: Any = None
        if MODEL == "minilm":
            import torch

            from benchmarks.minilm import Classifier

            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            self._classifier = Classifier(Path(os.environ["BENCHMARK_MINILM"]))

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        if inputs and inputs[0] in (WHO, WHO_BODY):
            return [os.getpid()] * len(inputs)
        if MODEL == "length":
            return [len(body) for body in inputs]
        if MODEL == "minilm":
            answers: list[Any] = self._classifier.predict(inputs)
            return answers
        return list(inputs)
