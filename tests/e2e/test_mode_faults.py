"""Handlers that misbehave while they stream, step, run side by side or keep the state of sequences.

The rows are those of the matrix of faults, section G. Proven elsewhere: streams that raise, die or hang, slow clients
and those that go away in test_streaming; one bad criterion, step or task in test_serving_modes; the runners of each
mode in worker/test_continuous, worker/test_asynchronous and worker/test_worker_streams.
"""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from servers import Server, Servers, error_of, together

# Each name is a way to stream badly; `send` sends one part to every request of the batch.
STREAMING = """
import sys

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    what = bytes(data[0]["body"]).decode()

    def send(part):
        send_intermediate_predict_response([part], context.request_ids, "Intermediate", 200, context)

    if what == "headers":
        for name, value in {
            "x-split": "1\\r\\nx-evil: 2",
            "x-nul": "a\\0",
            "Content-Length": "3",
            "Transfer-Encoding": "identity",
            "x-long": "v" * 1_000_000,
            "x-good": "1",
        }.items():
            context.set_response_header(0, name, value)
    if what.isdigit():
        context.set_response_status(int(what), "Phrase\\r\\nx-evil: 1", 0)
    if what == "unsendable first":
        send({1})
    for part in {"nothing": [None, None], "empty": [""] * 1000, "many": ["x"] * 10_000}.get(what, ["a", "b"]):
        send(part)
    if what == "unsendable":
        send({1})
    if what == "too large":
        send("x" * 7_000_000)
    if what == "exit":
        sys.exit(1)
    if what == "memory":
        raise MemoryError
    if what == "no list":
        return "c"
    return [{1} if what == "unsendable last" else "c"]
"""
# Steps each request three times, and does to the batch what one of them says, at the step that it says.
STEPPING = """
import json, os, sys

from handlers.errors import PredictionException


class WithoutText(Exception):
    def __str__(self):
        raise ValueError


def handle(data, context):
    if data is None:
        context.live = {}
        return None
    ids = [context.request_ids[index] for index in range(len(data))]
    context.live = {id: context.live.get(id) for id in ids}
    for index, (id, row) in enumerate(zip(ids, data)):
        if row:
            context.live[id] = {"step": 0, **json.loads(bytes(row["body"]))}
            if context.live[id]["do"] == "headers":
                context.set_response_header(index, "x-split", "1\\r\\nx-evil: 2")
                context.set_response_header(index, "x-good", "1")
    states = list(context.live.values())
    for state in states:
        state["step"] += 1
    results = [f"{state['do']}{state['step']} " for state in states]
    context.stopping_criteria = [lambda _, state=state: state["step"] >= 3 for state in states]
    for index, state in enumerate(states):
        if state["step"] == state.get("at"):
            results = act(state["do"], index, results)
    return results


def act(what, index, results):
    if what == "exit":
        sys.exit(1)
    if what == "memory":
        raise MemoryError
    if what == "no text":
        raise WithoutText
    if what == "refuse":
        raise PredictionException("not this one", 422)
    if what == "die":
        os._exit(3)
    if what == "dict":
        return {"a": 1}
    if what == "short":
        return results[:-1]
    if what == "set":
        results[index] = {1}
    if what == "large":
        results[index] = "x" * 7_000_000
    return results
"""
TASKS = """
import asyncio, sys

from handlers.errors import PredictionException
from ts.handler_utils.utils import send_intermediate_predict_response


class Handler:
    def initialize(self, context):
        self.tasks = []

    async def handle(self, data, context):
        what = bytes(data[0]["body"]).decode()
        await asyncio.sleep(0.1)
        if what == "fine":
            await asyncio.sleep(0.2)
        if what == "headers":
            context.set_response_header(0, "x-split", "1\\r\\nx-evil: 2")
            context.set_response_header(0, "x-good", "1")
            send_intermediate_predict_response(["part "], context.request_ids, "Intermediate", 200, context)
        if what == "background":
            self.tasks.append(asyncio.create_task(fail()))
        if what in ERRORS:
            raise ERRORS[what]
        return RESULTS.get(what, [what])


async def fail():
    raise ValueError


ERRORS = {
    "exit": SystemExit(1),
    "interrupt": KeyboardInterrupt(),
    "generator exit": GeneratorExit(),
    "cancelled": asyncio.CancelledError(),
    "stop iteration": StopIteration(),
    "memory": MemoryError(),
    "refuse": PredictionException("not this one", 422),
}
RESULTS = {"set": [{1}], "nothing": None, "two": ["a", "b"], "text": "a"}
"""
ADDING = """
import json, os, sys

TOTALS = {}


def handle(data, context):
    if data is None:
        return None
    results = []
    for index, row in enumerate(data):
        order = json.loads(bytes(row["body"]))
        if order.get("do") == "raise":
            raise ValueError
        if order.get("do") == "exit":
            sys.exit(1)
        id = context.get_sequence_id(index)
        TOTALS[id] = TOTALS.get(id, 0) + order["add"]
        results.append({1} if order.get("do") == "set" else TOTALS[id])
    return results
"""


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    one = {"minWorkers": 1, "maxWorkers": 1}
    sequences = {"sequenceBatching": True, "sequenceMaxIdleMSec": 60_000, "maxNumSequence": 8, "batchSize": 4}
    archives = module_servers.archives
    archives.pack("streaming", STREAMING, config=one)
    archives.pack("stepping", STEPPING, config={**one, "continuousBatching": True, "batchSize": 4})
    archives.pack("tasks", TASKS, config={**one, "asyncCommunication": True})
    archives.pack("adding", ADDING, config={**one, **sequences, "maxSequenceJobQueueSize": 8})
    return module_servers.start([f"{name}.mar" for name in ("streaming", "stepping", "tasks", "adding")])


# --- streams ---


def streamed(server: Server, what: str) -> tuple[bytes, bytes, bytes]:
    """Head and body of the answer, and what came after it: the answer to a second request on the same connection."""
    address = urlsplit(server.inference)
    request = f"POST /predictions/streaming HTTP/1.1\r\nHost: h\r\nContent-Length: {len(what)}\r\n\r\n{what}"
    follow_up = "GET /ping HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall((request + follow_up).encode())
        with connection.makefile("rb") as answers:
            head, _, rest = answers.read().partition(b"\r\n\r\n")
    body, second, more = rest.partition(b"HTTP/1.1 200 OK\r\n")
    return head, body, second + more


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (*parts, b""))


ODD_STREAMS = {
    "headers": chunked(b"a", b"b", b"c"),
    "nothing": chunked(b"null", b"null", b"c"),
    "empty": chunked(b"c"),
    "many": chunked(*[b"x"] * 10_000, b"c"),
    "201": chunked(b"a", b"b", b"c"),
    "204": b"",
    "304": b"",
}


@pytest.mark.parametrize("what", ODD_STREAMS)
def test_odd_streams_leave_the_connection_usable(server: Server, what: str) -> None:
    """G19, G20."""
    body = ODD_STREAMS[what]
    head, received, second = streamed(server, what)
    assert received == body
    assert second.endswith(b'{\n  "status": "Healthy"\n}\n')
    assert b"\r\nx-evil:" not in head
    assert head.count(b"\r\nx-good: 1") == (what == "headers")
    assert len(head) < 1000
    assert head.lower().count(b"\r\ntransfer-encoding: chunked") == (body != b"")
    assert b"content-length" not in head.lower()


@pytest.mark.parametrize(("what", "status"), [("99", 500), ("100", 500), ("101", 500), ("999", 999), ("507", 507)])
def test_odd_statuses_of_a_stream(server: Server, what: str, status: int) -> None:
    """G19: what is no final status is 500; errors close the connection after the whole body."""
    head, received, second = streamed(server, what)
    assert head.startswith(b"HTTP/1.1 %d Phrasex-evil: 1\r\n" % status)
    assert (received, second) == (chunked(b"a", b"b", b"c"), b"")


@pytest.mark.parametrize("what", ["unsendable", "unsendable last", "too large", "exit", "memory", "no list"])
def test_a_stream_that_cannot_go_on_is_cut_off_and_the_worker_lives(server: Server, what: str) -> None:
    """G20: the client can tell, because the last chunk is missing."""
    before = server.worker_pids("streaming")
    _, received, second = streamed(server, what)
    assert received + b"0\r\n\r\n" == chunked(b"a", b"b")
    assert second == b""
    assert server.predict("streaming", "x").text == "abc"
    assert server.worker_pids("streaming") == before


def test_a_first_part_that_cannot_be_sent_is_a_plain_error(server: Server) -> None:
    """G20."""
    code, type_, message = error_of(server.predict("streaming", "unsendable first"))
    assert (code, type_) == (503, "InternalServerException")
    assert message.startswith("Unsupported model output data type.")


# --- continuous batching ---


def step(server: Server, what: str, **options: Any) -> requests.Response | None:
    """None: the answer was cut off."""
    try:
        return server.predict("stepping", json.dumps({"do": what, **options}))
    except requests.exceptions.ChunkedEncodingError:
        return None


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("exit", 500),
        ("memory", 507),
        ("no text", 503),
        ("refuse", 422),
        ("die", 500),
        ("dict", 503),
        ("short", 503),
        ("set", 503),
        ("large", 500),
    ],
)
def test_a_step_that_fails_ends_its_requests_and_the_model_goes_on(server: Server, what: str, status: int) -> None:
    """G01-G05, G10, G11: a plain error before the first part, a stream that is cut off after it."""
    before = server.worker_pids("stepping")
    answer = step(server, what, at=1)
    assert answer is not None
    assert error_of(answer)[:2] == (status, "InternalServerException")
    assert step(server, what, at=2) is None
    after = step(server, "after")
    assert after is not None and after.text == "after1 after2 after3 "
    assert (server.worker_pids("stepping") == before) == (what != "die")


@pytest.mark.parametrize("what", ["set", "large"])
def test_a_result_that_cannot_be_sent_spoils_its_own_stream_only(server: Server, what: str) -> None:
    """G11."""
    one, bad, two = together(lambda: step(server, "one"), lambda: step(server, what, at=2), lambda: step(server, "two"))
    assert bad is None
    assert one is not None and one.text == "one1 one2 one3 "
    assert two is not None and two.text == "two1 two2 two3 "


def test_headers_of_a_stream_of_steps(server: Server) -> None:
    """G19."""
    answer = step(server, "headers")
    assert answer is not None and answer.text == "headers1 headers2 headers3 "
    assert answer.headers["x-good"] == "1"
    assert not {"x-split", "x-evil"} & {name.lower() for name in answer.headers}


# --- asynchronous workers ---


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("exit", 500, "Prediction failed"),
        ("interrupt", 500, "Prediction failed"),
        ("generator exit", 500, "Prediction failed"),
        ("cancelled", 503, "Prediction failed"),
        ("stop iteration", 503, "Prediction failed"),
        ("memory", 507, "Out of resources"),
        ("refuse", 422, "not this one"),
        ("set", 503, "Unsupported model output data type."),
        ("nothing", 503, "Invalid model predict output"),
        ("text", 503, "Invalid model predict output"),
        ("two", 503, "number of batch response mismatched"),
    ],
)
def test_a_task_that_fails_harms_none_of_those_beside_it(server: Server, what: str, status: int, message: str) -> None:
    """G01-G04, G10, G11, G24."""
    before = server.worker_pids("tasks")
    one, bad, two = server.predict_together("tasks", ["fine", what, "fine"])
    code, type_, text = error_of(bad)
    assert (code, type_) == (status, "InternalServerException")
    assert text.startswith(message)
    assert (one.text, two.text) == ("fine", "fine")
    assert server.worker_pids("tasks") == before


def test_a_background_task_that_fails_is_nobodys_answer(server: Server) -> None:
    """G16."""
    assert [answer.text for answer in server.predict_together("tasks", ["background", "fine"])] == [
        "background",
        "fine",
    ]


def test_headers_of_an_asynchronous_stream(server: Server) -> None:
    """G19."""
    answer = server.predict("tasks", "headers")
    assert answer.text == "part headers"
    assert answer.headers["x-good"] == "1"
    assert not {"x-split", "x-evil"} & {name.lower() for name in answer.headers}


# --- sequences ---


@pytest.mark.parametrize(("what", "status"), [("raise", 503), ("exit", 500), ("set", 503)])
def test_an_error_within_a_sequence_leaves_its_state_and_that_of_others(server: Server, what: str, status: int) -> None:
    """G01, G04, G11."""

    def add(sequence: str, **order: Any) -> requests.Response:
        return server.predict("adding", json.dumps(order), headers={"ts_request_sequence_id": f"{what} {sequence}"})

    before = server.worker_pids("adding")
    assert [add("a", add=1).text, add("b", add=10).text] == ["1", "10"]
    assert error_of(add("a", add=0, do=what))[0] == status
    assert [add("a", add=2).text, add("b", add=20).text] == ["3", "30"]
    assert server.worker_pids("adding") == before
