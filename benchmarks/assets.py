"""Files that the servers under test are made from, each made once per run and only when it is needed."""

import json
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from benchmarks.errors import BenchmarkError
from benchmarks.procs import QUIET_ENVIRONMENT

MODELS = Path(__file__).parent / "models"


class Assets:
    """The run's own folder and what has been put there so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def minilm(self) -> Path:
        """Folder with weights, configuration and tokenizer of the classifier, as transformers saves them."""
        folder = self.folder / "minilm"
        command = [sys.executable, "-m", "benchmarks.minilm", "prepare", str(folder)]
        result = subprocess.run(command, env=QUIET_ENVIRONMENT, capture_output=True, text=True)
        if result.returncode:
            raise BenchmarkError(f"The MiniLM classifier could not be made: {result.stderr.strip()}")
        return folder

    @cached_property
    def minilm_answers(self) -> dict[str, list[float]]:
        """Some sentences and the probabilities that plain transformers gives for them, one at a time."""
        answers: dict[str, list[float]] = json.loads((self.minilm / "answers.json").read_text(encoding="utf-8"))
        return answers
