"""What fused attention and little padding are worth, beside the "up to 4.5 times" that is said of them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.errors import BenchmarkError
from benchmarks.procs import QUIET_ENVIRONMENT
from benchmarks.results import Measurement
from benchmarks.scenarios import Repetition

_WAYS = {"eager": "eager, padded to 150 tokens", "sdpa": "SDPA, similar lengths together"}
_SIZES = (1, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class AttentionScenario:
    """A model without a server, on the CPU and on the GPU where there is one."""

    name: str
    title: str
    threads: int = 1
    seconds: int = 5
    headline: str = "requests_per_s"

    def measure(self, repetition: Repetition) -> Iterator[Measurement]:
        seconds = repetition.seconds or self.seconds
        for device in _devices():
            for size in _SIZES:
                case = f"batch {size}, {device}"
                reference = f"{_WAYS['eager']}, {case}"
                for way, contender in _WAYS.items():
                    values = {"requests_per_s": self._texts_per_s(way, size, device, seconds)}
                    against = None if way == "eager" else reference
                    yield Measurement(self.name, f"{contender}, {case}", "", repetition.number, values, against)

    def _texts_per_s(self, way: str, size: int, device: str, seconds: int) -> float:
        words = [way, str(size), device, "--threads", str(self.threads), "--seconds", str(seconds)]
        command = [sys.executable, "-m", "benchmarks.attention_loops", *words]
        environment = {**QUIET_ENVIRONMENT, "OMP_NUM_THREADS": str(self.threads)}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise BenchmarkError(f"The {way} loop did not run: {result.stderr.strip()}")
        rate: float = json.loads(result.stdout.splitlines()[-1])["requests_per_s"]
        return rate


def _devices() -> list[str]:
    # Takes a second, which other scenarios need not wait for.
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
