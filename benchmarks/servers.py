"""What a server under test is: a way to start it, to ask it, and to read its answers.

This project's own is `modelserver`; others are in `peers.catalog`.
"""

import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil

from benchmarks.assets import Assets
from benchmarks.errors import BenchmarkError
from benchmarks.procs import TAG, tagged
from benchmarks.workloads import Answer, Example, Input, Model, is_right

_STOP_TIMEOUT_S = 15
_ANSWER_TIMEOUT_S = 60
_CLIENTS = 16
_LOG_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model with one worker, and how it is served.

    Attributes:
        max_delay_ms: how long a request may wait for others; means nothing at batch size 1.
        threads: of the worker's numerical libraries.
        dtype: of the weights; this server's own, others have no setting for it.
    """

    model: Model
    batch_size: int = 1
    max_delay_ms: int = 1
    threads: int = 1
    dtype: str = "float32"

    @property
    def text(self) -> str:
        batch = f"batch {self.batch_size}"
        return batch if self.batch_size == 1 else f"{batch} / {self.max_delay_ms} ms"


@dataclass(frozen=True, slots=True)
class Request:
    """A request body in a server's own language."""

    body: bytes
    content_type: str


class Server(Protocol):
    """A kind of server."""

    @property
    def name(self) -> str: ...

    def running(self, deployment: Deployment, assets: Assets) -> AbstractContextManager["RunningServer"]:
        """Started and ready, until the context ends; raises BenchmarkError when it does not get there."""
        ...


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that is ready for predictions.

    Attributes:
        url: where requests are posted to.
        tag: marks its processes.
        launched_s: when it was launched, on the monotonic clock.
        worker_pids: the processes that run the handler.
        encode: input to request.
        decode: body of an answer to what `Example.expected` holds.
        port_open_s: from launch until the port could be connected to; None where that was not looked at.
        authorization: what every request carries in the header of that name; None: it has no such header.
    """

    url: str
    tag: str
    launched_s: float
    worker_pids: frozenset[int]
    encode: Callable[[Input], Request]
    decode: Callable[[bytes], Answer]
    port_open_s: float | None = None
    authorization: str | None = None

    def with_workers(self, pids: frozenset[int]) -> "RunningServer":
        return replace(self, worker_pids=pids)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All its processes by role: "worker" runs the handler, "frontend" is everything else."""
        processes = tagged(self.tag)
        return {
            "frontend": [process for process in processes if process.pid not in self.worker_pids],
            "worker": [process for process in processes if process.pid in self.worker_pids],
        }

    def ask(self, question: Input) -> Answer:
        """Raises BenchmarkError when there is no answer or the answer is an error."""
        request = self.encode(question)
        try:
            return self.decode(_post(self.url, request, self.authorization))
        except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(f"{self.url} gave no answer that can be read: {error!r}") from error

    def verify(self, examples: Sequence[Example]) -> None:
        """Asks all of them, several at once; raises BenchmarkError naming the first wrong answer."""
        with ThreadPoolExecutor(_CLIENTS) as clients:
            answers = clients.map(self.ask, [example.input for example in examples])
            for example, answer in zip(examples, answers, strict=True):
                if not is_right(answer, example.expected, example.tolerance):
                    raise BenchmarkError(
                        f"{self.url} answered wrongly: {example.input[:60]!r} gave {answer!r:.200}, "
                        f"expected {example.expected!r:.200}"
                    )


def _post(url: str, request: Request, authorization: str | None) -> bytes:
    headers = {"Content-Type": request.content_type}
    if authorization is not None:
        headers["Authorization"] = authorization
    posted = urllib.request.Request(url, request.body, headers)
    with urllib.request.urlopen(posted, timeout=_ANSWER_TIMEOUT_S) as response:
        answer: bytes = response.read()
    return answer


@dataclass(frozen=True, slots=True)
class Launch:
    """A server's first process, and what is known of it from outside."""

    process: subprocess.Popen[bytes]
    tag: str
    launched_s: float
    log: Path

    def failure(self, what: str) -> BenchmarkError:
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARACTERS:]
        return BenchmarkError(f"{what} The end of its log:\n{tail}")


@contextmanager
def launched(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, pass_fds: Sequence[int] = ()
) -> Iterator[Launch]:
    """Runs a command in its own folder; when the context ends, every process that came from it ends."""
    tag, log = uuid.uuid4().hex, folder / "server.log"
    with log.open("wb") as output:
        launched_s = time.monotonic()
        process = subprocess.Popen(
            command,
            env={**environment, TAG: tag},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    try:
        yield Launch(process, tag, launched_s, log)
    finally:
        _stop(process, tag)


def _stop(process: subprocess.Popen[bytes], tag: str) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for left in tagged(tag):
        with suppress(psutil.Error):
            left.kill()


def free_ports(count: int) -> list[int]:
    """Free at the moment; somebody else may take them before they are used."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
