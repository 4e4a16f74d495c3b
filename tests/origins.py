"""A web server on this machine that archives are fetched from, and that can misbehave in every way a test asks for."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

Behaviour = Callable[[BaseHTTPRequestHandler], None]


class Origin:
    """Answers each path as `answers` says, 404 where it says nothing.

    The state here is `requests`: path and headers of every request that came, in order.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Behaviour] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                origin.requests.append((self.path, dict(self.headers)))
                # What it does when a client has gone away is nobody's concern.
                with contextlib.suppress(OSError):
                    origin.answers.get(self.path.partition("?")[0], status(404))(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Origin:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    def held(self, head: bytes, *parts: bytes) -> Behaviour:
        """Sends these parts and then nothing more until the origin is released."""

        def behave(request: BaseHTTPRequestHandler) -> None:
            request.wfile.write(b"".join((head, *parts)))
            self.released.wait(30)

        return behave


def status(code: int, **headers: str) -> Behaviour:
    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return behave


def redirect(location: str, code: int = 302) -> Behaviour:
    return status(code, Location=location)


def content(body: bytes, length: int | None = None) -> Behaviour:
    """A whole answer, or one that ends before the `length` it has promised."""

    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(body) if length is None else length))
        request.end_headers()
        request.wfile.write(body)

    return behave


def endless(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        request.wfile.write(bytes(1 << 16))


def reset(request: BaseHTTPRequestHandler) -> None:
    """Cuts the connection in the middle of the body, as a machine does that goes down."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
