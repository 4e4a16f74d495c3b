"""The queue: whoever logs never waits, what is too much is counted, everything is written at the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import pytest
from servers import eventually

from model_server.logs import writer as module
from model_server.logs.lines import Line
from model_server.logs.writer import LogWriter


class Gate:
    """An outlet that writes while it is open, and keeps what it wrote."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.written: list[Line] = []
        self.calls: list[str] = []
        self.flushes = [True]

    def write(self, lines: Sequence[Line]) -> None:
        self.is_open.wait()
        self.written += lines

    def flush(self) -> bool:
        return self.flushes.pop() if len(self.flushes) > 1 else self.flushes[0]

    def reopen(self) -> None:
        self.calls.append("reopen")

    def close(self) -> None:
        self.calls.append("close")

    @property
    def messages(self) -> list[str]:
        return [line.message for line in self.written]


def line(message: str) -> Line:
    return Line(time.time(), logging.INFO, "X", "MainThread", message)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def started(gate: Gate, request: pytest.FixtureRequest) -> LogWriter:
    writer = LogWriter(lambda put: gate)
    writer.start()
    request.addfinalizer(writer.close)
    request.addfinalizer(gate.is_open.set)
    return writer


def test_lines_are_written_in_order_as_they_come(gate: Gate, started: LogWriter) -> None:
    for number in range(1000):
        started.put(line(str(number)))
    eventually(lambda: len(gate.written) == 1000, "1000 lines")
    assert gate.messages == [str(number) for number in range(1000)]


def test_the_end_writes_what_waits(gate: Gate, started: LogWriter) -> None:
    for number in range(5000):
        started.put(line(str(number)))
    started.close()
    assert len(gate.written) == 5000
    assert gate.calls == ["close"]


def test_nobody_waits_for_an_outlet_that_hangs_and_what_is_too_much_is_counted(
    gate: Gate, started: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_CHARACTERS", 100_000)
    gate.is_open.clear()
    begin_s = time.monotonic()
    for _ in range(1000):
        started.put(line("x" * 1000))
    assert time.monotonic() - begin_s < 1
    gate.is_open.set()
    eventually(lambda: gate.messages[-1:] and "dropped" in gate.messages[-1], "the count of dropped lines")
    *written, report = gate.written
    assert report.level == logging.WARNING
    assert report.message.startswith(f"{1000 - len(written)} lines of the log were dropped")


def test_after_that_it_goes_on(gate: Gate, started: LogWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_CHARACTERS", 1)
    gate.is_open.clear()
    for text in "abc":
        started.put(line(text))
    gate.is_open.set()
    eventually(lambda: any("dropped" in message for message in gate.messages), "the count")
    started.put(line("later"))
    eventually(lambda: "later" in gate.messages, "a line after the flood")


def test_the_end_does_not_wait_for_ever(gate: Gate, started: LogWriter) -> None:
    gate.is_open.clear()
    started.put(line("x"))
    begin_s = time.monotonic()
    started.close(timeout_s=0.05)
    assert time.monotonic() - begin_s < 1


def test_an_outlet_that_fails_does_not_end_the_log(
    gate: Gate, started: LogWriter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = threading.Event()

    def fail(lines: Sequence[Line]) -> None:
        failed.set()
        raise RuntimeError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(gate, "write", fail)
        started.put(line("lost"))
        assert failed.wait(5)
    started.put(line("next"))
    eventually(lambda: gate.messages == ["next"], "the next line")
    assert "RuntimeError: a bug" in capsys.readouterr().err


def test_reopening_needs_no_line(gate: Gate, started: LogWriter) -> None:
    started.reopen()
    eventually(lambda: gate.calls == ["reopen"], "reopened")


def test_what_is_stuck_is_tried_again_without_a_line(
    gate: Gate, started: LogWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    gate.flushes = [True, False, False]
    started.put(line("x"))
    eventually(lambda: gate.flushes == [True], "flushed at the third try")


def test_threads_may_log_at_the_same_time(gate: Gate, started: LogWriter) -> None:
    def log(name: str) -> None:
        for number in range(500):
            started.put(line(f"{name} {number}"))

    threads = [threading.Thread(target=log, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    started.close()
    for name in "abcd":
        assert [m for m in gate.messages if m[0] == name] == [f"{name} {number}" for number in range(500)]
