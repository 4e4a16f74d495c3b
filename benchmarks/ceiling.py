"""The fastest a server could be: the model alone, in a loop, in a process of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Literal

import psutil

from benchmarks.assets import Assets
from benchmarks.errors import BenchmarkError
from benchmarks.procs import QUIET_ENVIRONMENT, pss_mb
from benchmarks.workloads import is_right


@dataclass(frozen=True, slots=True)
class Ceiling:
    """One bare loop over the sentences: how many at a time, and in which order."""

    batch_size: int
    order: Literal["arrival", "sorted"] = "arrival"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        order = "" if self.batch_size == 1 else f", {self.order} order" if self.order == "arrival" else ", sorted"
        dtype = "" if self.dtype == "float32" else f", {self.dtype}"
        return f"bare loop, batch {self.batch_size}{order}{dtype}"

    @property
    def loop(self) -> str:
        """As `benchmarks.minilm` takes it."""
        return f"{self.batch_size}:{self.order}:{self.dtype}"


SCRIPT = "bare script"


def measure_loops(
    ceilings: Sequence[Ceiling], assets: Assets, threads: int, seconds: int
) -> Iterator[tuple[Ceiling, dict[str, float]]]:
    """Each ceiling with texts per second, CPU per text and the share of other programs."""
    words = [word for ceiling in ceilings for word in ("--loop", ceiling.loop)]
    with _program("loops", assets, threads, "--seconds", str(seconds), *words) as (_, output):
        for ceiling in ceilings:
            yield ceiling, json.loads(_line(output))


def measure_script(assets: Assets, threads: int) -> dict[str, float]:
    """Launch to first answer, and memory then, of a script that imports, loads and predicts."""
    expected = next(iter(assets.minilm_answers.values()))
    launched_s = time.monotonic()
    with _program("once", assets, threads) as (process, output):
        answer = json.loads(_line(output))
        first_answer_s = time.monotonic() - launched_s
        if not is_right(answer, expected):
            raise BenchmarkError(f"The bare script answered {answer}, expected {expected}.")
        return {"first_answer_s": first_answer_s, "pss_mb": pss_mb([psutil.Process(process.pid)])}


@contextmanager
def _program(
    command: str, assets: Assets, threads: int, *words: str
) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    arguments = [sys.executable, "-m", "benchmarks.minilm", command, str(assets.minilm), "--threads", str(threads)]
    environment: Mapping[str, str] = {**QUIET_ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(
        [*arguments, *words], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def _line(output: IO[str]) -> str:
    line = output.readline()
    if not line:
        raise BenchmarkError("The bare loop ended without an answer; what it printed is above.")
    return line
