"""The log files of both servers: the same files, forms and lines, but for ports, times and what is TorchServe's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pairs import Endpoints, Pair
from servers import eventually
from wire_exchange import Request

FILES = {"access_log.log", "model_log.log", "model_metrics.log", "ts_log.log", "ts_metrics.log"}

_STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
# What differs from run to run, and what stands for it.
_OF_ONE_RUN = (
    (re.compile(_STAMP), "<time>"),
    (re.compile(r"/127\.0\.0\.1:\d+ "), "/<client> "),
    (re.compile(r"W-\d+-"), "W-<id>-"),
    (re.compile(r" \d+$"), " <ms>"),
)


def log_file(server: Endpoints, name: str) -> Path:
    return server.folder / "logs" / name


def lines(server: Endpoints, name: str, containing: str) -> list[str]:
    """Waits for at least one; in the form that both servers' lines have in common."""

    def found() -> list[str]:
        text = log_file(server, name).read_text(encoding="utf-8")
        return [line for line in text.splitlines() if containing in line]

    return [_general(line) for line in eventually(found, f"{containing!r} in {name}")]


def _general(line: str) -> str:
    for pattern, general in _OF_ONE_RUN:
        line = pattern.sub(general, line)
    return line


def test_the_same_files_are_there(pair: Pair) -> None:
    theirs, ours = pair.both(lambda server: {path.name for path in (server.folder / "logs").glob("*.log")})
    assert theirs == ours == FILES


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ping"),
        ("PUT", "/ping"),
        ("GET", "/nowhere/%C3%A9/%0a"),
        ("OPTIONS", "/"),
        ("POST", "/predictions/answers"),
        ("POST", "/predictions/missing/1.0"),
    ],
)
def test_access_lines(pair: Pair, method: str, path: str) -> None:
    target = f'{path}?of={method}"{path.strip("/").replace("%", "")}"'
    request = Request(method, target, (), (b"text",))

    def ask(server: Endpoints) -> list[str]:
        server.infer(request)
        return lines(server, "access_log.log", f'"{method} {target} HTTP/1.1"')

    theirs, ours = pair.both(ask)
    assert len(theirs) == 1
    assert theirs == ours


def test_access_lines_are_in_the_servers_log_as_well(pair: Pair) -> None:
    def ask(server: Endpoints) -> list[str]:
        server.infer(Request("GET", "/ping?in=both"))
        return lines(server, "ts_log.log", "/ping?in=both")

    thread = re.compile(r"\] \S+ ACCESS_LOG")
    theirs, ours = (thread.sub("] <thread> ACCESS_LOG", line) for (line,) in pair.both(ask))
    assert theirs == ours


def test_what_a_handler_prints_and_raises(pair: Pair) -> None:
    def ask(server: Endpoints) -> list[str]:
        server.infer(Request("POST", "/predictions/answers", (), (b"no such action",)))
        return lines(server, "model_log.log", "KeyError: 'no such action'")[:1]

    theirs, ours = pair.both(ask)
    assert theirs == ours == ["<time> [INFO ] W-<id>-answers_1.0-stdout MODEL_LOG - KeyError: 'no such action'"]


def test_metric_lines(pair: Pair) -> None:
    def ask(server: Endpoints) -> str:
        server.infer(Request("GET", "/ping"))
        line = lines(server, "ts_metrics.log", "Requests2XX")[0]
        return re.sub(r"timestamp:\d+", "timestamp:<s>", line)

    theirs, ours = pair.both(ask)
    assert theirs == ours


def test_the_labels_of_the_start(pair: Pair) -> None:
    def labels(server: Endpoints) -> list[str]:
        text = log_file(server, "ts_log.log").read_text(encoding="utf-8")
        block = text[text.index("Torchserve version:") :]
        return [line.partition(":")[0] for line in block[: block.index("Model API enabled")].splitlines()]

    theirs, ours = pair.both(labels)
    assert [label for label in theirs if label in ours] == ours
    assert set(theirs) - set(ours) == {
        "Max heap size",
        "Netty threads",
        "Netty client threads",
        "Prefer direct buffer",
        "CPP log config",
    }


def test_each_event_is_in_the_servers_log_once(pair: Pair) -> None:
    """TorchServe's logger and the root logger both write into ts_log.log."""

    def count(server: Endpoints) -> int:
        text = log_file(server, "ts_log.log").read_text(encoding="utf-8")
        return len(re.findall(r"^Torchserve version:", text, re.MULTILINE))

    assert pair.both(count) == (2, 1)
