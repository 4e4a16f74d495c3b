"""A worker that dies or hangs: its requests are answered all the same, by another one, or once with an error."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers import Server, error_of, eventually

# Does what the text of a request says; LOG has one line per start of such an act.
MORTAL = """
import os, re, signal, time


def note(what):
    with open("LOG", "a") as log:
        print(what, os.getpid(), file=log)


def handle(data, context):
    return data and [one(bytes(row["body"]).decode(), len(data)) for row in data]


def one(what, batch):
    if what == "hold":
        note("hold")
        while not os.path.exists("GATE"):
            time.sleep(0.01)
    elif what in ACTS:
        note(what)
        ACTS[what]()
    return f"{what} {batch} {os.getpid()}"


def spin():
    while True:
        pass


ACTS = {
    "SIGKILL": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "SIGTERM": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "exit 0": lambda: os._exit(0),
    "exit 7": lambda: os._exit(7),
    "close": lambda: os.closerange(3, 100),
    "spin": spin,
    "sleep": lambda: time.sleep(1000),
    "spin in C": lambda: re.match("(a+)+$", "a" * 60 + "b"),
}
"""

Make = Callable[..., Path]
Start = Callable[..., Server]
FIXED_BATCH = {"batchSize": 3, "maxBatchDelay": 10_000, "batchingPolicy": "fixed"}


@pytest.fixture
def mortal(make_archive: Make, tmp_path: Path) -> Make:
    source = MORTAL.replace("LOG", str(tmp_path / "log")).replace("GATE", str(tmp_path / "gate"))
    return lambda **config: make_archive("mortal", source, config=config)


@pytest.fixture
def acts(tmp_path: Path) -> Callable[[], list[str]]:
    """What the handler has begun so far."""
    log = tmp_path / "log"
    return lambda: [line.rsplit(" ", 1)[0] for line in log.read_text().splitlines()] if log.exists() else []


def test_killed_while_idle(server: Start, mortal: Make) -> None:
    """The client notices nothing, /ping does until the replacement is there; restarts are counted."""
    mortal()
    running = server(["mortal.mar"])
    (pid,) = running.worker_pids("mortal")
    os.kill(pid, signal.SIGKILL)
    answer = running.predict("mortal", "x")
    assert answer.status_code == 200
    assert answer.text != f"x 1 {pid}"
    worker = running.wait_model_ready("mortal")["workers"][0]
    assert worker["restarts"] == 1
    assert worker["id"] == "9000", "the slot keeps its id"
    assert "SIGKILL" in running.log_text()
    assert running.infer("GET", "ping").json() == {"status": "Healthy"}


def test_killed_while_a_request_runs(
    server: Start, mortal: Make, acts: Callable[[], list[str]], tmp_path: Path
) -> None:
    """The request is answered by the replacement, once."""
    mortal()
    running = server(["mortal.mar"])
    (pid,) = running.worker_pids("mortal")
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(running.predict, "mortal", "hold")
        eventually(lambda: acts() == ["hold"], "the request at the worker")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: acts() == ["hold", "hold"], "the request at the replacement")
        (tmp_path / "gate").touch()
        answer = request.result()
    assert answer.status_code == 200
    assert answer.text == f"hold 1 {running.worker_pids('mortal')[0]}"
    assert acts() == ["hold", "hold"]


def test_no_second_attempt_where_the_archive_forbids_it(
    server: Start, mortal: Make, acts: Callable[[], list[str]]
) -> None:
    mortal(retryOnWorkerDeath=False)
    running = server(["mortal.mar"])
    code, type_, message = error_of(running.predict("mortal", "exit 7"))
    assert (code, type_) == (500, "InternalServerException")
    assert message.startswith("Worker died.")
    assert acts() == ["exit 7"]


@pytest.mark.parametrize(
    ("what", "status", "named"),
    [
        ("SIGKILL", 507, "SIGKILL"),
        ("SIGSEGV", 500, "SIGSEGV"),
        ("SIGTERM", 500, "SIGTERM"),
        ("exit 0", 500, "status 0"),
        ("exit 7", 500, "status 7"),
        ("close", 500, ""),
    ],
)
def test_a_request_that_kills_its_worker_is_tried_twice(
    server: Start, mortal: Make, acts: Callable[[], list[str]], what: str, status: int, named: str
) -> None:
    """Then it is answered with what ended the workers; its neighbours of the batch are answered well."""
    mortal(**FIXED_BATCH)
    running = server(["mortal.mar"])
    answers = running.predict_together("mortal", ["one", what, "two"])
    assert [answers[0].status_code, answers[2].status_code] == [200, 200]
    assert [answer.text.split()[0] for answer in (answers[0], answers[2])] == ["one", "two"]
    code, type_, message = error_of(answers[1])
    assert (code, type_) == (status, "InternalServerException")
    assert message.startswith("Worker died.")
    assert named in message
    assert "/" not in message
    assert acts() == [what, what]
    running.wait_model_ready("mortal")
    assert {answer.status_code for answer in running.predict_together("mortal", ["a", "b", "c"])} == {200}


@pytest.mark.parametrize("what", ["spin", "sleep", "spin in C"])
def test_a_hung_worker_is_replaced(server: Start, mortal: Make, acts: Callable[[], list[str]], what: str) -> None:
    """Answered when the time is up, not tried again; the log has the stack; the model answers again."""
    mortal(responseTimeout=1)
    running = server(["mortal.mar"])
    (pid,) = running.worker_pids("mortal")
    began_s = time.monotonic()
    code, type_, message = error_of(running.predict("mortal", what))
    assert 0.9 < time.monotonic() - began_s < 5
    assert (code, type_) == (500, "InternalServerException")
    assert message.startswith("Worker died.")
    assert "responseTimeout" in message
    assert running.predict("mortal", "x").status_code == 200
    assert running.worker_pids("mortal") != [pid]
    assert acts() == [what]
    log = running.log_text()
    assert "Backend worker did not respond in given time" in log
    assert 'mortal_handler.py", line' in log
    assert "in one" in log
    assert "Auto recovery succeeded, reset recoveryStartTS" in log
    assert "Auto recovery failed again" not in log


def test_the_neighbours_of_a_hung_request_are_answered(server: Start, mortal: Make) -> None:
    mortal(responseTimeout=1, **FIXED_BATCH)
    running = server(["mortal.mar"])
    answers = running.predict_together("mortal", ["one", "sleep", "two"])
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert error_of(answers[1])[2].startswith("Worker died.")
    assert [answers[0].text.split()[1], answers[2].text.split()[1]] == ["1", "1"], "each ran alone"


def test_loading_may_take_longer_than_a_response(server: Start, make_archive: Make) -> None:
    """responseTimeout and startupTimeout have nothing to do with each other."""
    slow = """
import time

def handle(data, context):
    if data is None:
        time.sleep(1.5)
    return data and ["loaded"] * len(data)
"""
    make_archive("slow", slow, config={"responseTimeout": 1, "startupTimeout": 30})
    assert server(["slow.mar"]).predict("slow").text == "loaded"


def test_children_of_a_worker_die_with_it(server: Start, make_archive: Make) -> None:
    source = """
import os, subprocess, sys

def handle(data, context):
    if data is None:
        return
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    if os.fork() == 0:
        while True:
            pass
    return [str(child.pid)] * len(data)
"""
    make_archive("parent", source)
    running = server(["parent.mar"])
    assert running.predict("parent").status_code == 200
    # One that is just being made has no environment to be told by.
    eventually(lambda: len(running.model_processes()) == 3, "the worker and its children")
    assert running.manage("PUT", "models/parent", params={"min_worker": 0, "synchronous": "true"}).status_code == 200
    eventually(lambda: running.model_processes() == [], "no process of the model")


def test_a_handler_that_forks_gives_one_answer(server: Start, make_archive: Make) -> None:
    """The child returns from the handler, too: no client gets its answer, or two."""
    source = """
import os

def handle(data, context):
    if data is None:
        return
    who = "child" if os.fork() == 0 else "parent"
    return [f"{bytes(row['body']).decode()} {who}" for row in data]
"""
    make_archive("forks", source)
    running = server(["forks.mar"])
    answers = [running.predict("forks", f"text {index}") for index in range(10)]
    assert [answer.text.rpartition(" ")[0] for answer in answers] == [f"text {index}" for index in range(10)]
    eventually(lambda: len(running.model_processes()) <= 2, "no crowd of children", 5)


def test_a_model_that_cannot_load_any_more_is_unhealthy(server: Start, make_archive: Make, tmp_path: Path) -> None:
    """It loaded once and never again: /ping says so, its requests are refused at once in the end, others answer."""
    source = f"""
import os

def handle(data, context):
    if data is None:
        assert not os.path.exists({str(tmp_path / "broken")!r}), "the weights are gone"
        return
    return ["fine"] * len(data)
"""
    make_archive("once", source, config={"maxRetryTimeoutInSec": 1})
    make_archive("other", source.replace("broken", "absent"))
    running = server(["once.mar", "other.mar"])
    (tmp_path / "broken").touch()
    os.kill(running.worker_pids("once")[0], signal.SIGKILL)
    eventually(lambda: running.infer("GET", "ping").status_code == 500, "an unhealthy server")
    assert running.infer("GET", "ping").json() == {"status": "Unhealthy"}
    worker = eventually(lambda: failed_worker(running), "a worker that is given up")
    assert "the weights are gone" in worker["reason"]
    assert worker["status"] == "UNLOADING"
    assert error_of(running.predict("once"))[:2] == (503, "ServiceUnavailableException")
    assert running.predict("other").text == "fine"

    (tmp_path / "broken").unlink()
    scaled = running.manage("PUT", "models/once", params={"min_worker": 1, "synchronous": "true"})
    assert scaled.status_code == 200, scaled.text
    assert running.predict("once").text == "fine"
    assert running.infer("GET", "ping").json() == {"status": "Healthy"}


def failed_worker(server: Server) -> dict[str, str] | None:
    worker: dict[str, str] = server.describe("once")[0]["workers"][0]
    return worker if worker["state"] == "failed" else None


def test_a_worker_that_prints_a_lot_harms_nobody(server: Start, make_archive: Make) -> None:
    source = """
import os

def handle(data, context):
    if data is None:
        return
    os.write(1, b"\\x1b[2J\\r\\xff\\x00[METRICS]forged\\n")
    os.write(2, b"Torch worker started.\\n")
    for _ in range(20):
        os.write(1, b"x" * 1_000_000)
    return ["fine"] * len(data)
"""
    make_archive("loud", source)
    running = server(["loud.mar"])
    assert running.predict("loud").text == "fine"
    assert running.predict("loud").text == "fine"
    eventually(lambda: "forged" in running.log_text(), "the line in the log")
    assert "\x1b" not in running.log_text()


def test_an_archive_may_hold_modules_of_any_name(server: Start, make_archive: Make) -> None:
    """Files called like modules that the worker itself uses do not take their place."""
    names = ("json.py", "typing.py", "socket.py", "yaml.py", "handlers.py", "model_server.py", "ts.py")
    source = """
import handlers

def handle(data, context):
    return data and [handlers.NAME] * len(data)
"""
    files = {name: f"NAME = {name!r}\n" for name in names}
    make_archive("names", source, files=files)
    running = server(["names.mar"])
    assert running.predict("names").text == "handlers.py"


def test_a_handler_may_close_its_standard_streams(server: Start, make_archive: Make) -> None:
    source = """
import os

def handle(data, context):
    if data is None:
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        os.chdir("/")
        return
    return ["fine"] * len(data)
"""
    make_archive("closes", source)
    running = server(["closes.mar"])
    assert [running.predict("closes").text for _ in range(3)] == ["fine"] * 3
