"""An open loop: requests are sent when they are due, whether or not earlier ones are answered.

    python -m benchmarks.open_loop URL RATE SECONDS CONTENT_TYPE BODIES [--authorization VALUE]

Latency counts from the moment a request was due, so that one which waits behind a slow one is as late as its client
would find it ("coordinated omission" is what leaves that out). BODIES is a file as `load.write_bodies` makes it; the
last line of the output is a JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import uvloop

# More than any client would open; who comes when all are taken waits, and is late.
_MOST_CONNECTIONS = 512
# How long the answers to the last requests are waited for.
_PATIENCE_S = 10.0

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Recorder:
    """The state here is the latencies of good answers, in seconds, and how many requests have no answer yet."""

    def __init__(self, requests: int) -> None:
        self.latencies_s: list[float] = []
        self.last_s = 0.0
        self.is_complete = asyncio.Event()
        self._open = requests

    def answered(self, due_s: float, is_good: bool) -> None:
        self.last_s = time.monotonic()
        if is_good:
            self.latencies_s.append(self.last_s - due_s)
        self._open -= 1
        if not self._open:
            self.is_complete.set()


class Client(asyncio.Protocol):
    """One connection, with one request at a time. The state here is the request under way and what has come for it."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._due_s: float | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, due_s: float) -> None:
        assert self._transport is not None
        self._due_s, self._received = due_s, b""
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end or self._due_s is None:
            return
        length = _LENGTH.search(head)
        if len(body) >= (int(length[1]) if length else 0):
            self._finish(head.split(b" ", 2)[1:2] == [b"200"])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due_s is not None:
            self._finish(is_good=False)
        self._pool.gone(self)

    def _finish(self, is_good: bool) -> None:
        assert self._due_s is not None
        due_s, self._due_s = self._due_s, None
        self._pool.recorder.answered(due_s, is_good)
        self._pool.free(self)


class Pool:
    """The state here is the connections that are free, how many there are, and what waits for one."""

    def __init__(self, host: str, port: int, recorder: Recorder) -> None:
        self.recorder = recorder
        self._host, self._port = host, port
        self._free: deque[Client] = deque()
        self._opened = 0
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, request: bytes, due_s: float) -> None:
        if self._free:
            self._free.pop().send(request, due_s)
            return
        self._waiting.append((request, due_s))
        if self._opened + len(self._opening) < _MOST_CONNECTIONS:
            task = asyncio.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def free(self, client: Client) -> None:
        if self._waiting:
            client.send(*self._waiting.popleft())
        else:
            self._free.append(client)

    def gone(self, client: Client) -> None:
        self._opened -= 1
        if client in self._free:
            self._free.remove(client)

    async def _open(self) -> None:
        try:
            _, client = await asyncio.get_running_loop().create_connection(lambda: Client(self), self._host, self._port)
        except OSError:
            if self._waiting:
                self.recorder.answered(self._waiting.popleft()[1], is_good=False)
            return
        self._opened += 1
        self.free(client)


async def run(
    url: str, rate: float, seconds: float, headers: Mapping[str, str], bodies: Sequence[bytes]
) -> dict[str, float]:
    """Sends `rate` requests a second, evenly spaced; counts and latencies by name."""
    address = urlsplit(url)
    requests = [_request(address.path, {"Host": address.netloc, **headers}, body) for body in bodies]
    count = max(1, round(rate * seconds))
    recorder = Recorder(count)
    pool = Pool(address.hostname or "", address.port or 80, recorder)
    begun_s = time.monotonic()
    for number in range(count):
        due_s = begun_s + number / rate
        if (wait_s := due_s - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)
        elif number % 64 == 0:
            await asyncio.sleep(0)  # behind time, answers have to be taken all the same
        pool.send(requests[number % len(requests)], due_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            await recorder.is_complete.wait()
    return _summary(recorder, count, begun_s)


def _request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _summary(recorder: Recorder, count: int, begun_s: float) -> dict[str, float]:
    latencies_ms = sorted(each * 1e3 for each in recorder.latencies_s)
    duration_s = max(recorder.last_s - begun_s, 1e-9)
    percentiles = {f"p{share}_ms": _percentile(latencies_ms, share) for share in (50, 95, 99)}
    answered = len(latencies_ms)
    return {"requests_per_s": answered / duration_s, "errors": count - answered, **percentiles}


def _percentile(ordered: Sequence[float], share: int) -> float:
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * share / 100) - 1)] if ordered else math.nan


def read_bodies(path: Path) -> list[bytes]:
    """What `load.write_bodies` wrote."""
    bodies = []
    with path.open("rb") as file:
        while line := file.readline():
            bodies.append(file.read(int(line)))
    return bodies


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.open_loop")
    parser.add_argument("url")
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("content_type")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--authorization")
    words = parser.parse_args()
    headers = {"Content-Type": words.content_type}
    if words.authorization is not None:
        headers["Authorization"] = words.authorization
    print(json.dumps(uvloop.run(run(words.url, words.rate, words.seconds, headers, read_bodies(words.bodies)))))


if __name__ == "__main__":
    main()
