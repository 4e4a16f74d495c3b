"""The load generators: wrk, a closed loop of clients that each wait for their answers, and an open loop of our own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError

_SCRIPT = Path(__file__).parent / "post.lua"
_TIMEOUT_S = 30
_ERRORS = ("errors_status", "errors_connect", "errors_read", "errors_write", "errors_timeout")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send what.

    Attributes:
        bodies: a file as `write_bodies` makes it.
        authorization: what every request carries in the header of that name; None: it has no such header.
    """

    url: str
    content_type: str
    bodies: Path
    authorization: str | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """Counts of one load; `answers` are good ones, `errors` all others, timeouts and broken connections included."""

    answers: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def require_wrk() -> None:
    if shutil.which("wrk") is None:
        raise BenchmarkError("The load generator wrk is not installed: sudo apt-get install wrk")


def write_bodies(bodies: Iterable[bytes], path: Path) -> None:
    path.write_bytes(b"".join(b"%d\n%b" % (len(body), body) for body in bodies))


def closed_loop(target: Target, concurrency: int, seconds: int) -> LoadResult:
    """Sends the bodies in order over kept connections, from one thread.

    Raises:
        BenchmarkError: wrk could not run; it carries what wrk said.
    """
    command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", f"--timeout={_TIMEOUT_S}s", "-s", str(_SCRIPT)]
    if target.authorization is not None:
        command += ["-H", f"Authorization: {target.authorization}"]
    result = subprocess.run(
        [*command, target.url, "--", target.content_type, str(target.bodies)], capture_output=True, text=True
    )
    if result.returncode or not result.stdout.endswith("}\n"):
        raise BenchmarkError(f"wrk failed on {target.url}: {result.stdout} {result.stderr}")
    return parse_summary(result.stdout)


def open_loop(target: Target, rate: float, seconds: float) -> dict[str, float]:
    """Sends `rate` requests a second whether or not they are answered; see the module of that name.

    Raises:
        BenchmarkError: the generator could not run.
    """
    words = [target.url, str(rate), str(seconds), target.content_type, str(target.bodies)]
    if target.authorization is not None:
        words += ["--authorization", target.authorization]
    result = subprocess.run([sys.executable, "-m", "benchmarks.open_loop", *words], capture_output=True, text=True)
    if result.returncode:
        raise BenchmarkError(f"The open loop failed on {target.url}: {result.stderr}")
    values: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return values


def parse_summary(output: str) -> LoadResult:
    """What `post.lua` printed as the last line."""
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    return LoadResult(
        answers=summary["requests"] - summary["errors_status"],
        errors=sum(summary[name] for name in _ERRORS),
        seconds=summary["duration_us"] / 1e6,
        p50_ms=summary["p50_us"] / 1e3,
        p95_ms=summary["p95_us"] / 1e3,
        p99_ms=summary["p99_us"] / 1e3,
    )
