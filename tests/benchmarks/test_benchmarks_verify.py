"""Answers are checked before the load, against a server in this process that can be told to lie."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.errors import BenchmarkError
from benchmarks.servers import Request, RunningServer
from benchmarks.workloads import Example

EXAMPLES = [Example(text, text) for text in ("one", "two", "three")]


@contextmanager
def serving(
    answer: Callable[[bytes], tuple[int, bytes]], authorizations: set[str | None] | None = None
) -> Iterator[RunningServer]:
    """`authorizations` gets what the requests carried in the header of that name."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if authorizations is not None:
                authorizations.add(self.headers["Authorization"])
            status, body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield RunningServer(
                url=f"http://127.0.0.1:{server.server_port}/predictions/bench",
                tag="",
                launched_s=0.0,
                worker_pids=frozenset(),
                encode=lambda text: Request(json.dumps({"text": text}).encode(), "application/json"),
                decode=lambda body: json.loads(body)["text"],
            )
        finally:
            server.shutdown()
            thread.join()


def test_right_answers_pass() -> None:
    with serving(lambda body: (200, body)) as server:
        server.verify(EXAMPLES)


def test_wrong_answer_is_named_with_its_input_and_what_was_expected() -> None:
    message = "answered wrongly: 'two' gave 'three', expected 'two'"
    with (
        serving(lambda body: (200, body.replace(b"two", b"three"))) as server,
        pytest.raises(BenchmarkError, match=message),
    ):
        server.verify(EXAMPLES)


@pytest.mark.parametrize(("status", "body"), [(503, b"busy"), (200, b"no JSON"), (200, b"{}"), (200, b"[]")])
def test_error_or_unreadable_answer_ends_the_run(status: int, body: bytes) -> None:
    with serving(lambda _: (status, body)) as server, pytest.raises(BenchmarkError, match="gave no answer"):
        server.verify(EXAMPLES)


@pytest.mark.parametrize("authorization", [None, "Bearer key"])
def test_only_a_server_with_tokens_is_sent_one(authorization: str | None) -> None:
    seen: set[str | None] = set()
    with serving(lambda body: (200, body), seen) as server:
        replace(server, authorization=authorization).verify(EXAMPLES)
    assert seen == {authorization}
