"""Explanations asked for by several clients at once, beside plain Captum one after the other."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.assets import Assets
from benchmarks.errors import BenchmarkError
from benchmarks.modelserver import ModelServer
from benchmarks.procs import QUIET_ENVIRONMENT
from benchmarks.results import Measurement
from benchmarks.scenarios import Repetition
from benchmarks.servers import Deployment
from benchmarks.texts import sentences
from benchmarks.workloads import Example

_ALONE = "plain captum, one after the other"
_QUICK_S = 2


@dataclass(frozen=True, slots=True)
class ExplanationScenario:
    """This server only: others have no explanations, or those of one request at a time.

    Attributes:
        count: sentences explained, each once; 16 clients ask for them.
    """

    name: str
    title: str
    deployment: Deployment
    count: int = 32
    headline: str = "requests_per_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        if all(server.name != ModelServer.name for server in repetition.servers):
            return
        quick = repetition.seconds is not None and repetition.seconds <= _QUICK_S
        alone = _plain_captum(repetition.assets, self.deployment.threads, sentences()[: 2 if quick else self.count])
        examples = [Example(text, values) for text, values in alone.pop("importances").items()]
        values = self._asked_at_once(examples, repetition.assets)
        yield Measurement(self.name, ModelServer.name, "c 16", repetition.number, values, _ALONE)
        yield Measurement(self.name, _ALONE, "", repetition.number, alone)

    def _asked_at_once(self, examples: Sequence[Example], assets: Assets) -> dict[str, float]:
        """Every answer is compared with Captum's while the time is taken."""
        with ModelServer().running(self.deployment, assets) as predicting:
            explaining = replace(
                predicting,
                url=predicting.url.replace("/predictions/", "/explanations/"),
                decode=lambda body: json.loads(body)["importances"],
            )
            explaining.verify(examples[:1])  # imports Captum
            started_s = time.monotonic()
            explaining.verify(examples)
            return {"requests_per_s": len(examples) / (time.monotonic() - started_s)}


def _plain_captum(assets: Assets, threads: int, texts: Sequence[str]) -> dict[str, Any]:
    words = [word for text in texts for word in ("--text", text)]
    command = [sys.executable, "-m", "benchmarks.captum_alone", str(assets.minilm), "--threads", str(threads), *words]
    environment = {**QUIET_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise BenchmarkError(f"Plain Captum did not run: {result.stderr.strip()}")
    values: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return values
