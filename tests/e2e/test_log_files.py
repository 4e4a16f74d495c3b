"""The logs of a real server: TorchServe's five files, rotation from outside, broken places, hostile content."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest
import requests
from servers import ANSWER_DEADLINE_S, STOP_DEADLINE_S, Server, Servers, eventually, exchange

FILES = ["access_log.log", "model_log.log", "model_metrics.log", "ts_log.log", "ts_metrics.log"]

TALKATIVE = """
import logging
import os
import sys

log = logging.getLogger(__name__)


def handle(data, context):
    if data is None:
        return None
    body = bytes(data[0].get("body") or data[0].get("data") or b"").decode()
    if body == "flood":
        for _ in range(64):
            os.write(1, (b"y" * 1023 + b"\\n") * 1024)
        return ["done"]
    if body == "fail":
        raise ValueError("it is the handler's fault")
    print(f"told: {body}")
    print("warned", file=sys.stderr, flush=True)
    log.warning("logged")
    context.metrics.add_counter("Tellings", 1)
    return ["heard"]
"""

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
SHORT = re.compile(rf"{STAMP} - .+")
FULL = re.compile(rf"{STAMP} \[(DEBUG|INFO |WARN |ERROR)\] (?P<thread>\S+) (?P<logger>\S+) - .*")


@pytest.fixture(scope="module")
def talkative(module_servers: Servers) -> Path:
    return module_servers.archives.pack("talkative", TALKATIVE)


@pytest.fixture(scope="module")
def running(module_servers: Servers, talkative: Path) -> Server:
    return module_servers.start(["talkative.mar"])


def log_file(server: Server, name: str) -> Path:
    return server.folder / "logs" / name


def lines(server: Server, name: str, containing: str) -> list[str]:
    """Waits until there is one; its neighbours come with it."""

    def found() -> list[str]:
        texts = log_file(server, name).read_text().splitlines()
        return [line for line in texts if containing in line]

    return eventually(found, f"{containing!r} in {name}")


def end(server: Server) -> None:
    """As an operator ends it; the fixture proves afterwards that nothing is left."""
    server.process.terminate()
    server.process.wait(STOP_DEADLINE_S)


# --- what TorchServe's operators find ---


def test_five_files_are_there_after_the_start(running: Server) -> None:
    assert sorted(path.name for path in (running.folder / "logs").glob("*.log")) == FILES


def test_an_access_line(running: Server) -> None:
    url = f"{running.inference}/predictions/talkative?mark=access%0A%22"
    answer = requests.post(url, data="x", headers={"Authorization": "Bearer secret-key"}, timeout=ANSWER_DEADLINE_S)
    assert answer.status_code == 200
    (line,) = lines(running, "access_log.log", "mark=access")
    target = re.escape("/predictions/talkative?mark=access%0A%22")
    found = re.fullmatch(rf'{STAMP} - /127\.0\.0\.1:\d+ "POST {target} HTTP/1\.1" 200 (\d+)', line)
    assert found and int(found[1]) < ANSWER_DEADLINE_S * 1000
    # The same on the console and in ts_log.log, in the long form.
    message = line[len("2026-11-21T12:08:31,353 - ") :]
    for text in (running.log_text(), log_file(running, "ts_log.log").read_text()):
        (full,) = [each for each in text.splitlines() if message in each]
        assert FULL.fullmatch(full) and "ACCESS_LOG" in full


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nope", 404), ("OPTIONS", "/", 200), ("GET", "/predictions/none", 404)]
)
def test_errors_and_management_have_theirs(running: Server, method: str, path: str, status: int) -> None:
    running.infer(method, f"{path[1:]}?mark={status}{method}")
    assert len(lines(running, "access_log.log", f'"{method} {path}?mark={status}{method} HTTP/1.1" {status} ')) == 1
    running.manage(method, f"{path[1:]}?managed={status}{method}")
    assert len(lines(running, "access_log.log", f"{path}?managed={status}{method} HTTP/1.1")) == 1


def test_the_model_log(running: Server) -> None:
    running.predict("talkative", "model log")
    (told,) = lines(running, "model_log.log", "told: model log")
    assert re.fullmatch(rf"{STAMP} \[INFO \] W-9000-talkative_1\.0-stdout MODEL_LOG - told: model log", told)
    warned = lines(running, "model_log.log", "warned")[0]
    assert re.fullmatch(rf"{STAMP} \[WARN \] W-9000-talkative_1\.0-stderr MODEL_LOG - warned", warned)
    logged = lines(running, "model_log.log", "logged")[0]
    assert re.fullmatch(rf"{STAMP} \[INFO \] W-9000-talkative_1\.0-stdout MODEL_LOG - logged", logged)
    assert told in running.log_text().splitlines()


def test_a_handlers_traceback_is_in_the_model_log_line_by_line(running: Server) -> None:
    running.predict("talkative", "fail")
    lines(running, "model_log.log", "ValueError: it is the handler's fault")
    assert lines(running, "model_log.log", "Traceback (most recent call last):")
    assert all(FULL.fullmatch(line) for line in log_file(running, "model_log.log").read_text().splitlines())


def test_metric_lines_have_their_files(running: Server) -> None:
    running.predict("talkative", "metrics")
    (line, *_) = lines(running, "ts_metrics.log", "Requests2XX.Count:1.0")
    assert SHORT.fullmatch(line)
    assert line.split("|")[0].split(":")[3] == "1.0"
    assert [each for each in running.log_text().splitlines() if " TS_METRICS - Requests2XX.Count:1.0" in each]


def test_the_start_is_described_under_torchserves_labels(running: Server) -> None:
    text = log_file(running, "ts_log.log").read_text()
    assert f"\nLog dir: {running.folder / 'logs'}\n" in text
    assert f"\nModel Store: {running.model_store}\n" in text
    assert "\nModel API enabled: true\n" in text
    assert "Model server started." in running.log_text()


# --- places ---


def test_places_of_logs_and_metrics(server: Callable[..., Server], tmp_path: Path) -> None:
    places = {"LOG_LOCATION": str(tmp_path / "a"), "METRICS_LOCATION": str(tmp_path / "b")}
    running = server(environment=places)
    running.infer("GET", "ping")
    end(running)
    assert sorted(path.name for path in (tmp_path / "a").glob("*.log")) == [n for n in FILES if "metrics" not in n]
    assert sorted(path.name for path in (tmp_path / "b").glob("*.log")) == [n for n in FILES if "metrics" in n]
    assert '"GET /ping HTTP/1.1" 200' in (tmp_path / "a" / "access_log.log").read_text()
    assert not (running.folder / "logs").exists()


def test_a_place_that_cannot_be_written_is_one_warning(server: Callable[..., Server], tmp_path: Path) -> None:
    """A file stands where the folder should be: not even root can write there."""
    (tmp_path / "a").write_text("")
    running = server(environment={"LOG_LOCATION": str(tmp_path / "a"), "METRICS_LOCATION": str(tmp_path / "a")})
    assert running.infer("GET", "ping").status_code == 200
    text = running.log_text()
    assert text.count("Cannot write ") == 1
    assert f"in {tmp_path / 'a'}" in text
    assert '"GET /ping HTTP/1.1" 200' in text


def test_a_full_disk_harms_no_request(server: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in FILES:
        (tmp_path / "a" / name).symlink_to("/dev/full")
    running = server(environment={"LOG_LOCATION": str(tmp_path / "a"), "METRICS_LOCATION": str(tmp_path / "a")})
    for _ in range(20):
        assert running.infer("GET", "ping").status_code == 200
    assert running.log_text().count("No space left on device") == 1


# --- rotation from outside, the end ---


def test_logrotate(server: Callable[..., Server]) -> None:
    running = server()
    path = log_file(running, "access_log.log")
    running.infer("GET", "ping?before")
    lines(running, "access_log.log", "?before")
    path.rename(path.with_suffix(".1"))
    running.process.send_signal(signal.SIGHUP)
    eventually(path.exists, "a new file", 5)
    running.infer("GET", "ping?after")
    lines(running, "access_log.log", "?after")
    assert "?before" in path.with_suffix(".1").read_text()
    assert "?before" not in path.read_text()
    assert running.process.poll() is None


def test_everything_is_written_when_it_stops(server: Callable[..., Server]) -> None:
    running = server()
    for number in range(200):
        running.infer("GET", f"ping?n={number}")
    end(running)
    text = log_file(running, "access_log.log").read_text()
    assert re.findall(r"\?n=(\d+)", text) == [str(number) for number in range(200)]
    assert "Stopped." in running.log.read_text().splitlines()[-1]


# --- content ---


def test_what_clients_send_forges_no_line(running: Server) -> None:
    target = b"/ping?forged\x1b[31m\xff\x7f"
    exchange(running.inference, b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    exchange(running.inference, b"\x16\x03\x01 no HTTP\r\n\r\n")
    running.predict("talkative\n2026-11-21T00:00:00,000 [INFO ] main ACCESS_LOG - forged", b"")
    running.predict("talkative", "\x1b[2Jforged\r\x85next".encode())
    lines(running, "model_log.log", "forged")
    lines(running, "access_log.log", "%0A2026")
    text = log_file(running, "ts_log.log").read_text(encoding="utf-8")
    assert all(line.replace("\t", "").isprintable() for line in text.split("\n"))
    assert not [line for line in text.splitlines() if line.startswith("2026-11-21T00:00:00,000")]


def test_no_token_no_header_and_no_body_is_logged(server: Callable[..., Server]) -> None:
    running = server()
    body = f"body-{os.getpid()}"
    headers = {"Authorization": "Bearer token-in-a-header", "X-Own": "own-header"}
    running.infer("POST", "predictions/none", data=body, headers=headers)
    end(running)
    written = "".join(path.read_text() for path in (running.folder / "logs").glob("*.log")) + running.log.read_text()
    assert '"POST /predictions/none HTTP/1.1"' in written
    for secret in ("token-in-a-header", "own-header", body):
        assert secret not in written


def test_a_flood_of_output_leaves_the_server_responsive(running: Server) -> None:
    """64 MiB in one go."""
    with ThreadPoolExecutor(1) as pool:
        flood, waits = pool.submit(running.predict, "talkative", "flood"), []
        while not flood.done():
            begin_s = time.monotonic()
            assert running.infer("GET", "ping").status_code == 200
            waits.append(time.monotonic() - begin_s)
    assert flood.result().text == "done"
    (report, *_) = lines(running, "model_log.log", "what is too much is dropped")
    assert "[WARN ] W-9000-talkative_1.0-stdout" in report
    assert log_file(running, "model_log.log").stat().st_size < 32 << 20
    assert sorted(waits)[len(waits) // 2] < 0.25
    assert running.predict("talkative", "after the flood").text == "heard"


# --- forms, levels, configuration ---


def test_json_lines(server: Callable[..., Server], talkative: Path, tmp_path: Path) -> None:
    store = tmp_path / "model_store"
    store.mkdir(exist_ok=True)
    (store / "talkative.mar").symlink_to(talkative)
    running = server(["talkative.mar"], {"log_format": "json", "log_level": "INFO,TS_METRICS=OFF"})
    answer = running.predict("talkative", "json")
    lines(running, "model_log.log", "told: json")
    lines(running, "access_log.log", "/predictions/talkative")
    documents = {
        name: [json.loads(line) for line in log_file(running, name).read_text().splitlines()] for name in FILES
    }
    (access,) = [each for each in documents["access_log.log"] if "/predictions/talkative" in each["message"]]
    assert access["request_id"] == answer.headers["x-request-id"]
    assert access["logger"] == "ACCESS_LOG"
    assert abs(datetime.fromisoformat(access["time"]).timestamp() - time.time()) < 60
    assert documents["ts_metrics.log"] == []
    assert {"level", "thread", "message"} <= documents["model_log.log"][0].keys()
    assert [each for each in documents["ts_log.log"] if "\nModel Store: " in each["message"]]


def test_a_python_logging_configuration(server: Callable[..., Server], tmp_path: Path) -> None:
    file = {"class": "logging.FileHandler", "filename": str(tmp_path / "own.log"), "formatter": "own"}
    document = {
        "formatters": {"own": {"format": "%(name)s|%(message)s"}},
        "handlers": {"own": file},
        "root": {"handlers": ["own"], "level": "INFO"},
    }
    (tmp_path / "own.json").write_text(json.dumps(document))
    running = server(args=["--log-config", str(tmp_path / "own.json")])
    running.infer("GET", "ping")
    end(running)
    text = (tmp_path / "own.log").read_text()
    assert re.search(r'^ACCESS_LOG\|/127\.0\.0\.1:\d+ "GET /ping HTTP/1\.1" 200 \d+$', text, re.MULTILINE)
    assert text.endswith("model_server.server|Stopped.\n")
    assert not (running.folder / "logs" / "access_log.log").exists()


@pytest.mark.parametrize(
    ("name", "text", "warning"),
    [
        ("log4j2.xml", "<Configuration/>", "log4j2 files are not read"),
        ("own.yaml", "root: {handlers: [nowhere]}", "The logging configuration is not used: "),
    ],
)
def test_another_configuration_never_stops_a_start(
    server: Callable[..., Server], tmp_path: Path, name: str, text: str, warning: str
) -> None:
    (tmp_path / name).write_text(text)
    running = server(args=["--log-config", str(tmp_path / name)])
    assert running.log_text().count(warning) == 1
    assert sorted(path.name for path in (running.folder / "logs").glob("*.log")) == FILES
