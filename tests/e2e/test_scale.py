"""Many models and many connections cost what each of them needs, and nobody else anything."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil
from servers import Server, Servers, eventually

ECHO = """
class Handler:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        return [bytes(row["body"]).decode() for row in data]
"""
MODELS, CONNECTIONS = 200, 500
# Far below the 1 MB that a model may cost, and far above what noise does to so few of them.
MODEL_BYTES, CONNECTION_BYTES = 100_000, 60_000


def memory(server: Server) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def all_names(server: Server) -> list[str]:
    """Of all models, page by page."""
    names: list[str] = []
    page: dict[str, Any] = {"nextPageToken": "0"}
    while "nextPageToken" in page:
        page = server.manage("GET", "models", params={"next_page_token": page["nextPageToken"]}).json()
        names += [model["modelName"] for model in page["models"]]
    return names


def test_models_without_workers_cost_next_to_nothing(servers: Servers) -> None:
    servers.archives.pack("echo", ECHO)
    server = servers.start(["echo.mar"])
    threads, before = psutil.Process(server.process.pid).num_threads(), memory(server)
    processes = len(server.processes())
    for number in range(MODELS):
        answer = server.register("echo.mar", model_name=f"idle-{number}")
        assert answer.status_code == 200, answer.text
    assert memory(server) - before < MODELS * MODEL_BYTES
    assert len(server.processes()) == processes
    # The pool makes threads when it needs them, a few for each core.
    assert psutil.Process(server.process.pid).num_threads() < threads + MODELS // 4
    assert server.predict("echo", b"still here").text == "still here"
    assert sorted(all_names(server)) == sorted(["echo", *(f"idle-{number}" for number in range(MODELS))])


@contextmanager
def soft_descriptor_limit(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ping(connection: socket.socket) -> None:
    connection.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"}\n"), answer


def test_more_connections_than_the_usual_limit_of_descriptors(servers: Servers) -> None:
    servers.archives.pack("echo", ECHO)
    with soft_descriptor_limit(CONNECTIONS // 2):
        server = servers.start(["echo.mar"])
    soft, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
    before = memory(server)
    address = urlsplit(server.inference)
    with ExitStack() as open_connections:
        idle = [
            open_connections.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
            for _ in range(CONNECTIONS)
        ]
        for connection in idle:
            ping(connection)
        assert memory(server) - before < CONNECTIONS * CONNECTION_BYTES
        assert server.predict("echo", b"another one").text == "another one"
        for connection in idle:
            ping(connection)
    frontend = psutil.Process(server.process.pid)
    eventually(lambda: len(frontend.net_connections()) < 20, "closed connections are let go")
