"""The worker program as the frontend starts it: signals, exit statuses, output, and dying with its parent."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from model_server.wire.messages import Failure, Load, Loaded, Message, Part, Predict, PredictItem, Result, Stop
from model_server.worker.connection import Connection

DEADLINE_S = 20

HANDLER = """
import os, sys
def initialize_everything():
    print("initialised", flush=False)
def spin_for_ever():
    print("spinning")
    open("begun", "w").close()
    while True:
        pass
def handle(data, context):
    if data is None:
        return initialize_everything()
    word = bytes(data[0]["body"]).decode()
    if word == "spin":
        spin_for_ever()
    if word == "modules":
        return [sorted(sys.modules)]
    if word == "inheritable":
        return [[fd for fd in range(3, 64) if is_inheritable(fd)]]
    return [word]
def is_inheritable(fd):
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
"""


class WorkerInProcess:
    """A worker process and the frontend's end of its socketpair."""

    def __init__(self, process: subprocess.Popen[str], sock: socket.socket) -> None:
        self.process = process
        self.sock = sock
        self._connection = Connection(sock)

    def send(self, message: Message) -> None:
        self._connection.send(message)

    def receive(self) -> Message | None:
        return self._connection.receive()

    def load(self, folder: Path) -> None:
        self.send(Load("m", str(folder), "handler.py", 1))
        assert isinstance(self.receive(), Loaded)

    def ask(self, word: str) -> str:
        self.begin(word)
        result = self.receive()
        assert isinstance(result, Result)
        return bytes(result.items[0].body).decode()

    def begin(self, word: str) -> None:
        self.send(Predict(1, "predict", [PredictItem("r", [], [Part("body", word.encode())])]))

    def output(self) -> tuple[str, str]:
        """What it printed and complained, after its end."""
        return self.process.communicate(timeout=DEADLINE_S)


@contextmanager
def started(parent: int) -> Iterator[WorkerInProcess]:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_S)
    with theirs:
        command = [sys.executable, "-P", "-m", "model_server.worker", "--fd", str(theirs.fileno())]
        process = subprocess.Popen(
            [*command, "--parent", str(parent)],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    with ours, process:
        try:
            yield WorkerInProcess(process, ours)
        finally:
            process.kill()


@pytest.fixture
def worker() -> Iterator[WorkerInProcess]:
    with started(os.getpid()) as worker:
        yield worker


@pytest.fixture
def model(archive: Callable[..., Path]) -> Path:
    return archive({"handler.py": HANDLER})


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stop_ends_it_with_status_0_and_its_prints_come_out(worker: WorkerInProcess, model: Path) -> None:
    worker.load(model)
    assert worker.ask("hello") == "hello"
    worker.send(Stop())
    printed, complaints = worker.output()
    assert (worker.process.returncode, printed.splitlines()[0], complaints) == (0, "initialised", "")


def test_end_of_the_connection_ends_it_with_status_0(worker: WorkerInProcess, model: Path) -> None:
    worker.load(model)
    worker.sock.shutdown(socket.SHUT_RDWR)
    assert worker.process.wait(DEADLINE_S) == 0


def test_load_failure_is_status_3_and_the_traceback_is_on_stderr(worker: WorkerInProcess, archive: Any) -> None:
    folder = archive({"handler.py": "raise ValueError('at import')\n"})
    worker.send(Load("m", str(folder), "handler.py", 1))
    failure = worker.receive()
    assert isinstance(failure, Failure) and failure.message == "ValueError: at import (handler.py, line 1)"
    _, complaints = worker.output()
    assert worker.process.returncode == 3
    assert "Traceback" in complaints and "at import" in complaints


def test_prints_come_out_line_by_line(worker: WorkerInProcess, model: Path) -> None:
    worker.load(model)
    assert worker.process.stdout is not None
    assert worker.process.stdout.readline() == "initialised\n"


def test_interrupt_from_the_terminal_is_ignored(worker: WorkerInProcess, model: Path) -> None:
    worker.load(model)
    worker.process.send_signal(signal.SIGINT)
    assert worker.ask("still here") == "still here"


def test_stack_of_a_spinning_handler_is_written_on_request(worker: WorkerInProcess, model: Path) -> None:
    worker.load(model)
    worker.begin("spin")
    assert worker.process.stdout is not None and worker.process.stderr is not None
    while worker.process.stdout.readline() != "spinning\n":
        assert worker.process.poll() is None
    worker.process.send_signal(signal.SIGUSR1)
    seen = ""
    while "in spin_for_ever" not in seen:
        line = worker.process.stderr.readline()
        assert line, seen
        seen += line
    assert worker.process.poll() is None


def test_the_socket_is_not_inherited_by_what_a_handler_starts(worker: WorkerInProcess, model: Path) -> None:
    worker.load(model)
    assert worker.ask("inheritable") == "[]"


def test_the_core_of_a_worker_is_light(worker: WorkerInProcess, model: Path) -> None:
    worker.load(model)
    loaded = {name.partition(".")[0] for name in json.loads(worker.ask("modules"))}
    assert "model_server" in loaded
    assert not loaded & {"aiohttp", "torch", "numpy", "transformers", "asyncio", "archiver", "psutil", "uvloop"}


@pytest.mark.parametrize("name", ["handlers.py", "json.py", "logging.py", "socket.py", "model_server.py", "yaml.py"])
def test_files_of_the_archive_do_not_get_in_the_way_of_the_core(
    worker: WorkerInProcess, archive: Any, name: str
) -> None:
    folder = archive(
        {"handler.py": HANDLER, name: "raise AssertionError('imported')\n" if name != "handlers.py" else ""}
    )
    worker.load(folder)
    assert "model_server.worker.loop" in worker.ask("modules")


def test_started_by_a_stranger_it_ends_at_once() -> None:
    with started(parent=1) as worker:
        assert worker.process.wait(DEADLINE_S) == 1


PARENT = """
import os, socket, subprocess, sys, time
from model_server.wire.messages import Load, Loaded, Part, Predict, PredictItem
from model_server.worker.connection import Connection
ours, theirs = socket.socketpair()
worker = subprocess.Popen(
    [sys.executable, "-P", "-m", "model_server.worker", "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
    pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
)
theirs.close()
connection = Connection(ours)
connection.send(Load("m", sys.argv[1], "handler.py", 1))
assert isinstance(connection.receive(), Loaded)
connection.send(Predict(1, "predict", [PredictItem("r", [], [Part("body", sys.argv[2].encode())])]))
while sys.argv[2] == "spin" and not os.path.exists(sys.argv[1] + "/begun"):
    time.sleep(0.01)
print(worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is a signal on Linux only")
@pytest.mark.parametrize("word", ["idle", "spin"])
def test_killed_frontend_takes_its_worker_along(model: Path, word: str) -> None:
    command = [sys.executable, "-c", PARENT, str(model), word]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    wait_until(lambda: is_gone(pid))
