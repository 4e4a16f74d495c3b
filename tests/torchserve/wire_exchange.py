"""HTTP as it is on the wire: a request to the byte, an answer with its chunks and its headers in order."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

ANSWER_DEADLINE_S = 30.0

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Request:
    """`chunks` makes the body: sent as chunks where there are several, with its length where there is one."""

    method: str
    target: str
    headers: Headers = ()
    chunks: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        # The same host for every server, since handlers see it.
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: models.test"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if len(self.chunks) > 1:
            framing, body = "Transfer-Encoding: chunked", b"".join(map(_chunk, (*self.chunks, b"")))
        else:
            body = b"".join(self.chunks)
            framing = f"Content-Length: {len(body)}"
        needs_framing = self.chunks or self.method not in ("GET", "OPTIONS", "DELETE")
        return "\r\n".join([*lines, *([framing] if needs_framing else []), "", ""]).encode("latin-1") + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Answer:
    """`chunks`: of a chunked body, without the empty one at its end; None for a body with a length."""

    status: int
    phrase: str
    headers: Headers
    body: bytes
    chunks: tuple[bytes, ...] | None

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} occurs {len(values)} times"
        return values[0] if values else None


def send(address: Address, request: Request | bytes) -> Answer:
    """One request on a connection of its own.

    An answer that announces the end of its connection is read to that end, so that one which keeps it open fails here.

    Raises:
        TimeoutError: no complete answer in time.
        EOFError: the connection ended before the answer did.
    """
    with socket.create_connection((address.host, address.port), timeout=ANSWER_DEADLINE_S) as connection:
        connection.sendall(request if isinstance(request, bytes) else request.encode())
        with connection.makefile("rb") as stream:
            answer = _read_answer(stream)
            if answer.header("connection") == "close":
                assert _is_ended(stream), "more bytes after the answer"
            return answer


def _is_ended(stream: BinaryIO) -> bool:
    return _received(stream.read) == b""


def _received(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except ConnectionResetError:  # how TorchServe ends a connection
        return b""


def _read_answer(stream: BinaryIO) -> Answer:
    while True:
        _, status, phrase = (*_line(stream).split(" ", 2), "")[:3]
        lines = iter(lambda: _line(stream), "")
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        if status != "100":
            break
    answer = Answer(int(status), phrase, headers, b"", None)
    if answer.header("transfer-encoding") == "chunked":
        chunks = _read_chunks(stream)
        return Answer(int(status), phrase, headers, b"".join(chunks), chunks)
    return Answer(int(status), phrase, headers, _exactly(stream, int(answer.header("content-length") or 0)), None)


def _read_chunks(stream: BinaryIO) -> tuple[bytes, ...]:
    chunks = []
    while size := int(_line(stream), 16):
        chunks.append(_exactly(stream, size))
        _line(stream)
    _line(stream)
    return tuple(chunks)


def _line(stream: BinaryIO) -> str:
    line = _received(stream.readline)
    if not line.endswith(b"\n"):
        raise EOFError(f"the connection ended within an answer, after {line!r}")
    return line.decode("latin-1").rstrip("\r\n")


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = _received(lambda: stream.read(size))
    if len(data) < size:
        raise EOFError(f"{len(data)} of {size} bytes of an answer")
    return data
