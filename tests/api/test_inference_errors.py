"""Errors of a prediction: who gets them, with which status, type and text; and who does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from servers import Server, Servers, error_of, eventually

# Does with each row what the text in it says.
MISBEHAVING = """
import ctypes
import sys

from handlers.errors import PredictionException


class Unprintable(Exception):
    def __str__(self):
        raise ValueError


class Own(BaseException):
    pass


RAISED = {
    "ValueError": ValueError("secret /path"),
    "no text": KeyError(),
    "odd arguments": ValueError(object(), 1),
    "unprintable": Unprintable(),
    "own": Own(),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator exit": GeneratorExit(),
    "stop iteration": StopIteration(),
    "recursion": RecursionError("deep"),
    "long": ValueError("x" * 10_000_000),
    "memory": MemoryError(),
    "cuda": RuntimeError("CUDA out of memory. Tried to allocate"),
    "599": PredictionException("Some Prediction Error", 599),
    "default": PredictionException("Went wrong"),
    "400": PredictionException("Empty text", 400),
    "413": PredictionException("Too large for the device", 413),
    "no message": PredictionException(None, 400),
}
loop = []
loop.append(loop)
RETURNED = {"set": {1}, "object": object(), "loop": loop, "surrogate": "\\ud800"}


def handle(data, context):
    return data and [one(bytes(row["body"]).decode()) for row in data]


def one(what):
    if what in RAISED:
        raise RAISED[what]
    if what == "sys.exit":
        sys.exit("bye")
    return RETURNED.get(what, f"fine {what}")
"""
# What it returns as a whole is said by the first row.
WHOLE = """
WHOLE = {
    "nothing": None,
    "dict": {"a": 1},
    "str": "text",
    "tuple": ("a",),
    "short": [],
    "long": ["a", "b"],
}


def handle(data, context):
    return data and WHOLE.get(bytes(data[0]["body"]).decode(), [f"fine {len(data)}"] * len(data))
"""
# Answers when the file GATE is there.
WAITING = """
import os, time


def handle(data, context):
    while data and not os.path.exists("GATE"):
        time.sleep(0.01)
    return data and ["through"] * len(data)
"""
FAILED = "Prediction failed"


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    archives = module_servers.archives
    archives.pack("bad", MISBEHAVING)
    archives.pack("whole", WHOLE)
    batching = {"batchSize": 3, "maxBatchDelay": 10_000, "batchingPolicy": "fixed"}
    archives.pack("bad_batch", MISBEHAVING, config=batching)
    archives.pack("whole_batch", WHOLE, config=batching)
    archives.pack("idle", MISBEHAVING)
    server = module_servers.start(["bad.mar", "whole.mar", "bad_batch.mar", "whole_batch.mar", "idle.mar"])
    assert server.manage("PUT", "models/idle", params={"min_worker": 0, "synchronous": "true"}).status_code == 200
    return server


@pytest.mark.parametrize(
    ("what", "status", "message"),
    [
        ("ValueError", 503, FAILED),
        ("no text", 503, FAILED),
        ("odd arguments", 503, FAILED),
        ("unprintable", 503, FAILED),
        ("stop iteration", 503, FAILED),
        ("recursion", 503, FAILED),
        ("long", 503, FAILED),
        ("own", 500, FAILED),
        ("exit", 500, FAILED),
        ("sys.exit", 500, FAILED),
        ("interrupt", 500, FAILED),
        ("generator exit", 500, FAILED),
        ("memory", 507, "Out of resources"),
        ("cuda", 507, "Out of resources"),
        ("599", 599, "Some Prediction Error"),
        ("default", 500, "Went wrong"),
        ("400", 400, "Empty text"),
        ("413", 507, "Too large for the device"),
        ("no message", 400, "None"),
        ("set", 503, "Unsupported model output data type."),
        ("object", 503, "Unsupported model output data type."),
        ("loop", 503, "Unsupported model output data type."),
        ("surrogate", 503, "Unsupported model output data type."),
    ],
)
def test_what_a_handler_does_wrong(server: Server, what: str, status: int, message: str) -> None:
    """The message begins with TorchServe's text, tells no secret, and the worker lives on."""
    before = server.worker_pids("bad")
    code, type_, text = error_of(server.predict("bad", what))
    assert (code, type_) == (status, "InternalServerException")
    assert text.startswith(message)
    assert "secret" not in text
    assert len(text) < 300
    assert server.predict("bad", "x").content == b"fine x"
    assert server.worker_pids("bad") == before


def test_the_log_has_the_traceback(server: Server) -> None:
    server.predict("bad", "ValueError")
    eventually(lambda: "ValueError: secret /path" in server.log_text(), "the exception in the log")


def test_a_line_of_a_handler_cannot_fill_the_log(server: Server) -> None:
    server.predict("bad", "long")
    eventually(lambda: "more characters)" in server.log_text(), "the cut line in the log")
    assert max(map(len, server.log_text().splitlines())) < 20_000


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "Invalid model predict output"),
        ("dict", "Invalid model predict output"),
        ("str", "Invalid model predict output"),
        ("tuple", "Invalid model predict output"),
        ("short", "number of batch response mismatched"),
        ("long", "number of batch response mismatched"),
    ],
)
def test_what_is_no_list_of_one(server: Server, what: str, message: str) -> None:
    code, type_, text = error_of(server.predict("whole", what))
    assert (code, type_) == (503, "InternalServerException")
    assert text.startswith(message)
    assert server.predict("whole", "x").content == b"fine 1"


@pytest.mark.parametrize("what", ["ValueError", "exit", "memory", "400", "set", "surrogate"])
def test_only_the_bad_request_of_a_batch_fails(server: Server, what: str) -> None:
    answers = server.predict_together("bad_batch", ["one", what, "two"])
    assert [answer.content for answer in (answers[0], answers[2])] == [b"fine one", b"fine two"]
    assert answers[1].status_code == error_of(server.predict("bad", what))[0]


def test_a_whole_batch_fails_where_the_archive_forbids_a_second_run(servers: Servers) -> None:
    config = {"batchSize": 3, "maxBatchDelay": 10_000, "batchingPolicy": "fixed", "retryOnError": False}
    servers.archives.pack("bad", MISBEHAVING, config=config)
    answers = servers.start(["bad.mar"]).predict_together("bad", ["one", "ValueError", "two"])
    assert [answer.status_code for answer in answers] == [503, 503, 503]


def test_a_batch_of_the_wrong_length_is_run_one_by_one(server: Server) -> None:
    """`long` is a list of two for three requests; for each of the others alone the handler answers well."""
    answers = server.predict_together("whole_batch", ["long", "long", "long"])
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.content for answer in server.predict_together("whole_batch", "abc")} == {b"fine 3"}


NO_WORKER = (
    "has no worker to serve inference request. Please use scale workers API to add workers. If this is a sequence "
    "inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)


@pytest.mark.parametrize(
    ("path", "model"), [("predictions/idle", 'Model "idle"'), ("predictions/idle/1.0", 'Model "idle" Version 1.0"')]
)
def test_a_model_without_workers(server: Server, path: str, model: str) -> None:
    answer = server.infer("POST", path, data=b"x")
    assert error_of(answer) == (503, "ServiceUnavailableException", f"{model} {NO_WORKER}")


def test_a_full_queue_is_said_at_once(servers: Servers) -> None:
    """The worker is busy with as much as it is given beforehand, one request waits, the others are refused."""
    gate = servers.archives.folder.parent / "gate"
    servers.archives.pack("waiting", WAITING.replace("GATE", str(gate)))
    server = servers.start(["waiting.mar"], {"job_queue_size": 1})
    with ThreadPoolExecutor(20) as pool:
        requests = [pool.submit(server.predict, "waiting") for _ in range(20)]
        try:
            eventually(lambda: any(request.done() for request in requests), "a refused request")
            status = server.describe("waiting")[0]["jobQueueStatus"]
        finally:
            gate.touch()
        answers = [request.result() for request in requests]
    assert status == {"remainingCapacity": 0, "pendingRequests": 1}
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 19
    for answer in refused:
        code, type_, message = error_of(answer)
        assert (code, type_) == (503, "ServiceUnavailableException")
        assert message.startswith(f'Model "waiting" {NO_WORKER}')
        assert int(answer.headers["Retry-After"]) >= 1
    assert server.predict("waiting").content == b"through"
