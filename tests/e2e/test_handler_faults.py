"""Handlers that misbehave at inference: who gets which answer, who is not harmed, and what becomes of the worker.

The rows are those of the matrix of faults, section G; what handlers do to their process is in test_handler_processes,
other modes than the plain one are in test_mode_faults. Proven elsewhere:

    G01-G04, G24  api/test_inference_errors: test_what_a_handler_does_wrong, test_the_log_has_the_traceback,
                  test_a_line_of_a_handler_cannot_fill_the_log, test_only_the_bad_request_of_a_batch_fails
    G05, G06      test_worker_death: test_a_request_that_kills_its_worker_is_tried_twice, test_a_hung_worker_is_replaced
    G07           test_worker_death: test_a_request_that_kills_its_worker_is_tried_twice[SIGKILL]
    G10           api/test_inference_errors: test_what_is_no_list_of_one,
                  test_a_batch_of_the_wrong_length_is_run_one_by_one
    G11           worker/test_results: test_values_that_cannot_be_sent_are_named; worker/test_runner:
                  test_one_unsendable_value_spoils_only_its_own_answer; torchserve/test_torchserve_answers
    G12           test_batching: test_many_clients_each_get_their_own_answer; worker/test_runner: Fussy
    G13           test_worker_death: test_a_worker_that_prints_a_lot_harms_nobody
    G19           api/test_responses: test_headers_that_would_break_the_answer_are_dropped,
                  test_a_status_that_is_none_becomes_500, test_a_phrase_cannot_break_the_status_line,
                  test_statuses_without_a_body_leave_the_connection_usable
    G22, G23      test_worker_death: test_a_hung_worker_is_replaced, test_the_neighbours_of_a_hung_request_are_answered
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from servers import MIRROR, RawAnswer, Server, Servers, error_of, eventually, exchange

# Does with each request what its text says, and answers with it.
ACTING = """
import ctypes, datetime, os, resource, signal, sys, threading, time, warnings

from handlers.errors import PredictionException


class WithoutText:
    def __str__(self):
        raise ValueError


class OwnCode(PredictionException):
    def __init__(self):
        pass


class Leaving(Exception):
    def __str__(self):
        sys.exit("from __str__")


def nested():
    value = []
    for _ in range(100_000):
        value = [value]
    return value


def recurse():
    recurse()


def warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("no")


def allocate():
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, limits[1]))
    try:
        bytearray(8 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def leave_in_a_thread():
    threading.Thread(target=os._exit, args=(4,)).start()
    time.sleep(1000)


def deadlock():
    lock = threading.Lock()
    with lock, lock:
        pass


def fail(error):
    raise error


ACTS = {
    "text that fails": lambda: fail(PredictionException(WithoutText(), 400)),
    "code as text": lambda: fail(PredictionException("told", "400")),
    "no code": lambda: fail(PredictionException("told", None)),
    "no __init__": lambda: fail(OwnCode()),
    "long text": lambda: fail(PredictionException("x" * 10_000_000, 400)),
    "text that leaves": lambda: fail(Leaving()),
    "deep text": lambda: fail(ValueError(nested())),
    "recursion": recurse,
    "group": lambda: fail(ExceptionGroup("two", [ValueError(), KeyError()])),
    "warning": warn,
    "memory": allocate,
    "generator": lambda: (number for number in [1]),
    "time": lambda: [datetime.datetime.now()],
    "deep result": nested,
    "SIGABRT": os.abort,
    "SIGSEGV": lambda: ctypes.string_at(0),
    "thread leaves": leave_in_a_thread,
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "deadlock": deadlock,
}


def handle(data, context):
    return data and [one(bytes(row["body"]).decode()) for row in data]


def one(what):
    result = ACTS[what]() if what in ACTS else None
    return f"fine {what}" if result is None else result
"""
# Sets the headers, and the reason phrase, that a request lists.
HEADERS = """
import json


def handle(data, context):
    if not data:
        return None
    for index, row in enumerate(data):
        order = json.loads(bytes(row["body"]))
        for name, length in order["headers"]:
            context.set_response_header(index, name, "v" * length)
        context.set_response_status(200, "p" * order.get("phrase", 0), index)
    return ["fine"] * len(data)
"""


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    archives = module_servers.archives
    batches = {"batchSize": 3, "maxBatchDelay": 10_000, "batchingPolicy": "fixed", "minWorkers": 1, "maxWorkers": 1}
    archives.pack("acting", ACTING, config={**batches, "responseTimeout": 1})
    archives.pack("headers", HEADERS)
    archives.pack("other", MIRROR)
    return module_servers.start(["acting.mar", "headers.mar", "other.mar"])


@pytest.fixture(autouse=True)
def _the_other_model_is_not_harmed(server: Server) -> Iterator[None]:
    before = server.worker_pids("other")
    yield
    assert server.predict("other", b"x").status_code == 200
    assert server.worker_pids("other") == before


def between_neighbours(server: Server, what: str) -> tuple[int, str, str]:
    """Asks for it in a batch whose other members are answered well; the error it is answered with."""
    first, bad, last = server.predict_together("acting", ["one", what, "two"])
    assert (first.text, last.text) == ("fine one", "fine two")
    return error_of(bad)


# --- errors ---


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("text that fails", 400, "a WithoutText without a text"),
        ("code as text", 500, "told"),
        ("no code", 500, "told"),
        ("no __init__", 500, "Prediction failed"),
        ("long text", 400, "xxxxxxxxxx"),
        ("text that leaves", 503, "Prediction failed"),
        ("deep text", 503, "Prediction failed"),
        ("recursion", 503, "Prediction failed"),
        ("group", 503, "Prediction failed"),
        ("warning", 503, "Prediction failed"),
        ("memory", 507, "Out of resources"),
        ("generator", 503, "Unsupported model output data type. The handler returned a generator."),
        ("time", 503, "Unsupported model output data type. The handler returned a list."),
        ("deep result", 503, "Unsupported model output data type. The handler returned a list."),
    ],
)
def test_an_odd_error_stays_with_its_request_and_the_worker_lives(
    server: Server, what: str, status: int, message: str
) -> None:
    """G01, G02, G07, G11, G24."""
    (worker,) = server.worker_pids("acting")
    code, type_, text = between_neighbours(server, what)
    assert (code, type_) == (status, "InternalServerException")
    assert text.startswith(message)
    assert len(text) < 20_000
    assert server.worker_pids("acting") == [worker]


# --- deaths ---


@pytest.mark.parametrize(
    ("what", "named"), [("SIGABRT", "SIGABRT"), ("SIGSEGV", "SIGSEGV"), ("thread leaves", "status 4")]
)
def test_a_death_is_answered_with_its_cause_and_the_neighbours_well(server: Server, what: str, named: str) -> None:
    """G05, and G16 for a thread that ends the process."""
    (worker,) = server.worker_pids("acting")
    began_s = time.monotonic()
    code, type_, message = between_neighbours(server, what)
    assert (code, type_) == (500, "InternalServerException")
    assert message.startswith("Worker died.")
    assert named in message
    server.wait_model_ready("acting")
    assert server.worker_pids("acting") != [worker]
    assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("what", ["SIGSTOP", "deadlock"])
def test_what_does_not_go_on_ends_with_response_timeout(server: Server, what: str) -> None:
    """G05, G06: once in the batch, once alone; the log says where each hung that could still tell."""
    (worker,) = server.worker_pids("acting")
    began_s = time.monotonic()
    code, _, message = between_neighbours(server, what)
    assert 2 <= time.monotonic() - began_s < 8
    assert code == 500
    assert message.startswith("Worker died. It did not respond within 1 s (responseTimeout)")
    assert server.worker_pids("acting") != [worker]
    assert what != "deadlock" or "in deadlock" in server.log_text()


# --- headers ---


def with_headers(server: Server, headers: list[tuple[str, int]], phrase: int = 0) -> RawAnswer:
    """What comes of headers with values of these lengths."""
    body = json.dumps({"headers": headers, "phrase": phrase}).encode()
    head = f"POST /predictions/headers HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n"
    return exchange(server.inference, head.encode() + body)


@pytest.mark.parametrize("length", [100_000, 1_000_000, 50_000_000])
def test_a_header_longer_than_clients_read_is_dropped(server: Server, length: int) -> None:
    """G19."""
    answer = with_headers(server, [("x-before", 10), ("x-long", length), ("x-after", 10)])
    assert (answer.status, answer.body, answer.header("connection")) == (200, b"fine", "keep-alive")
    assert (answer.header("x-before"), answer.header("x-long"), answer.header("x-after")) == ("v" * 10, None, "v" * 10)
    eventually(lambda: "were dropped: ['x-long']" in server.log_text(), "the warning")


def test_headers_have_a_limit_together(server: Server) -> None:
    """G19."""
    answer = with_headers(server, [(f"x-{number}", 1000) for number in range(1000)])
    sent = [name for name, _ in answer.headers if name.startswith("x-") and name != "x-request-id"]
    assert sent == [f"x-{number}" for number in range(len(sent))]
    assert 50 < len(sent) < 65
    assert answer.body == b"fine"


def test_a_phrase_longer_than_clients_read_is_cut(server: Server) -> None:
    """G19."""
    answer = with_headers(server, [], phrase=1_000_000)
    assert answer.status_line == "HTTP/1.1 200 " + "p" * 1000
    assert answer.body == b"fine"
