"""The whole loop, in a thread over a socketpair: the same bytes as in a process of its own."""

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_server.wire.messages import (
    Cancel,
    Capabilities,
    Credit,
    Failure,
    ItemResult,
    Load,
    Loaded,
    Message,
    Part,
    Predict,
    PredictItem,
    Result,
    Stop,
    encode,
)
from model_server.worker.connection import Connection
from model_server.worker.loop import EXIT_LOAD_FAILED, EXIT_OK, serve

pytestmark = pytest.mark.usefixtures("restored_interpreter")

DEADLINE_S = 20

ECHO = """
def handle(data, context):
    if data is None:
        return
    for index, row in enumerate(data):
        if row["body"] == b"count":
            context.metrics.add_counter("Counted", 1, idx=index)
        if row["body"] == b"exit":
            raise SystemExit(1)
    return [bytes(row["body"]) for row in data]
"""


class LoopInThread:
    """The frontend's end of a worker loop that runs in a thread."""

    def __init__(self) -> None:
        self.sock, self._theirs = socket.socketpair()
        self.sock.settimeout(DEADLINE_S)
        self._connection = Connection(self.sock)
        self._status: int | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._theirs:
            self._status = serve(Connection(self._theirs))

    def send(self, *messages: Message) -> None:
        for message in messages:
            self._connection.send(message)

    def receive(self) -> Message | None:
        """Without the time that a result took, which is another one every time."""
        message = self._connection.receive()
        if isinstance(message, Result):
            assert message.service_s is not None and 0 <= message.service_s < DEADLINE_S
            message.service_s = None
        return message

    def exit_status(self) -> int | None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return self._status

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        self.sock.close()


@pytest.fixture
def worker() -> Iterator[LoopInThread]:
    worker = LoopInThread()
    yield worker
    try:
        worker.close()
    except OSError:
        pass
    worker.exit_status()


def load(folder: Path, **fields: Any) -> Load:
    return Load("m", str(folder), **{"handler": "handler.py", "batch_size": 8, **fields})


def batch(batch_id: int, *bodies: bytes) -> Predict:
    return Predict(
        batch_id, "predict", [PredictItem(f"r{i}", [], [Part("body", body)]) for i, body in enumerate(bodies)]
    )


def result(batch_id: int, *bodies: bytes) -> Result:
    return Result(batch_id, [ItemResult(f"r{i}", body=body) for i, body in enumerate(bodies)])


def test_a_life_from_load_to_stop(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})))
    assert worker.receive() == Loaded(Capabilities())
    worker.send(batch(5, b"a", b"b"))
    assert worker.receive() == result(5, b"a", b"b")
    worker.send(Stop())
    assert worker.exit_status() == EXIT_OK


def test_metrics_come_with_the_result(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})), batch(1, b"x", b"count"), batch(2, b"x"), Stop())
    received = [worker.receive() for _ in range(3)]
    sample = ["Counted", 1.0, "Count", "COUNTER", [["ModelName", "m"], ["Level", "Model"]], "r1"]
    counted = result(1, b"x", b"count")
    counted.samples = [sample]  # type: ignore[list-item]  # JSON has lists only
    assert received == [Loaded(Capabilities()), counted, result(2, b"x")]


def test_what_was_sent_before_stop_is_finished_and_nothing_after(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})), batch(1, b"1"), batch(2, b"2"), Stop(), batch(3, b"3"))
    assert worker.exit_status() == EXIT_OK
    received = [worker.receive() for _ in range(3)]
    assert received == [Loaded(Capabilities()), result(1, b"1"), result(2, b"2")]


def test_messages_of_other_modes_mean_nothing(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})), Cancel(1, 0), Credit(1, 0, 3), batch(1, b"1"))
    assert [worker.receive() for _ in range(2)] == [Loaded(Capabilities()), result(1, b"1")]


def test_a_handler_cannot_end_the_loop(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})), batch(1, b"a", b"exit"), batch(2, b"after"))
    assert worker.receive() == Loaded(Capabilities())
    isolated = worker.receive()
    assert isinstance(isolated, Result)
    assert [item.status for item in isolated.items] == [200, 500]
    assert worker.receive() == result(2, b"after")


def test_an_empty_batch_is_an_empty_result(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})), Predict(1, "predict", []))
    assert [worker.receive() for _ in range(2)] == [Loaded(Capabilities()), Result(1, [])]


def test_bodies_larger_than_every_buffer(archive: Any, worker: LoopInThread) -> None:
    body = bytes(range(256)) * 16_000
    worker.send(load(archive({"handler.py": ECHO})), batch(1, body, b"", body))
    assert [worker.receive() for _ in range(2)] == [Loaded(Capabilities()), result(1, body, b"", body)]


def test_end_of_the_connection_ends_the_worker(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})))
    assert worker.receive() == Loaded(Capabilities())
    worker.close()
    assert worker.exit_status() == EXIT_OK


def test_end_in_the_middle_of_a_message_ends_the_worker(archive: Any, worker: LoopInThread) -> None:
    worker.send(load(archive({"handler.py": ECHO})))
    assert worker.receive() == Loaded(Capabilities())
    worker.sock.sendall(b"".join(encode(batch(1, b"never finished")))[:-1])
    worker.close()
    assert worker.exit_status() == EXIT_OK


def test_a_frontend_that_is_gone_when_the_answer_is_ready_ends_the_worker(archive: Any, worker: LoopInThread) -> None:
    source = """
import threading
begun, gone = threading.Event(), threading.Event()
def handle(data, context):
    if data is not None:
        begun.set()
        gone.wait(20)
        return [b"x"] * len(data)
"""
    worker.send(load(archive({"handler.py": source})))
    assert worker.receive() == Loaded(Capabilities())
    worker.send(batch(1, b"a"))
    assert sys.modules["handler"].begun.wait(DEADLINE_S)
    worker.close()
    sys.modules["handler"].gone.set()
    assert worker.exit_status() == EXIT_OK


def test_no_load_no_worker(worker: LoopInThread) -> None:
    worker.send(Stop())
    assert worker.exit_status() == EXIT_OK


def test_closed_before_load(worker: LoopInThread) -> None:
    worker.close()
    assert worker.exit_status() == EXIT_OK


# --- load failures: status and the cause ---


def failure_of(worker: LoopInThread, folder: Path, **fields: Any) -> Failure:
    worker.send(load(folder, **fields))
    failure = worker.receive()
    assert worker.exit_status() == EXIT_LOAD_FAILED
    assert isinstance(failure, Failure)
    return failure


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        ("ValueError('no weights')", 500, "ValueError: no weights"),
        ("RuntimeError('any text')", 500, "RuntimeError: any text"),
        ("RuntimeError('CUDA error: no kernel image')", 507, "RuntimeError: CUDA error: no kernel image"),
        ("MemoryError()", 507, "MemoryError:"),
        ("SystemExit(7)", 500, "SystemExit: 7"),
    ],
)
def test_what_initialize_raises_is_the_cause(
    archive: Any, worker: LoopInThread, raised: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = failure_of(worker, archive({"handler.py": f"def handle(data, context):\n    raise {raised}\n"}))
    assert (failure.status, failure.message) == (status, f"{message} (handler.py, line 2)")
    assert "handler.py" in failure.detail and "Traceback" in failure.detail
    assert failure.detail in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "handler", "cause"),
    [
        ({"handler.py": "def handle(:\n"}, "handler.py", "SyntaxError: invalid syntax (handler.py, line 1)"),
        ({"handler.py": "import nowhere_at_all\n"}, "handler", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ({"x": ""}, "os:system", "ModelLoadError: Handler 'os:system' is neither"),
        ({"MAR-INF/MANIFEST.json": "{"}, "handler", "JSONDecodeError"),
    ],
)
def test_what_cannot_be_imported_is_the_cause(
    archive: Any, worker: LoopInThread, files: dict[str, str], handler: str, cause: str
) -> None:
    failure = failure_of(worker, archive(files), handler=handler)
    assert failure.status == 500
    assert failure.message.startswith(cause)


def test_missing_model_directory_is_the_cause(worker: LoopInThread, tmp_path: Path) -> None:
    assert "not_there" in failure_of(worker, tmp_path / "not_there").message
