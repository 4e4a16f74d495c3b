"""Start, failed start, stop and kill of the whole server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from servers import MIRROR, Server, eventually

Make = Callable[..., Path]
Start = Callable[..., Server]

# Begins when it says so in BUSY, goes on until GATE is there; "spin" goes on for ever.
WAITS = """
import os, time


def handle(data, context):
    if data is None:
        return
    open("BUSY", "w").close()
    while data[0]["body"] == b"spin":
        pass
    while not os.path.exists("GATE"):
        time.sleep(0.01)
    return ["through"] * len(data)
"""


@pytest.fixture
def waits(make_archive: Make, tmp_path: Path) -> Make:
    source = WAITS.replace("BUSY", str(tmp_path / "busy")).replace("GATE", str(tmp_path / "gate"))
    return lambda **config: make_archive("waits", source, config=config)


# --- kill ---


def test_no_worker_outlives_a_killed_frontend(server: Start, waits: Make, make_archive: Make, tmp_path: Path) -> None:
    """Idle, busy in a Python loop, still loading: all are gone within two seconds."""
    waits(minWorkers=2, maxWorkers=2)
    make_archive("loads", "def handle(data, context):\n    while True:\n        pass\n")
    running = server(["waits.mar"])
    assert running.register("loads.mar", initial_workers=1, synchronous="false").status_code == 202
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(running.predict, "waits", b"spin")
        eventually((tmp_path / "busy").exists, "a busy worker")
        eventually(lambda: len(running.model_processes()) == 3, "three workers")
        running.kill()
        eventually(lambda: running.processes() == [], "no worker", 2)
        with pytest.raises(requests.ConnectionError):
            lost.result()


def test_folders_of_a_killed_server_are_no_obstacle(server: Start, make_archive: Make) -> None:
    """Its pid file and its unpacked archives lie around; the next one starts in the same place all the same."""
    make_archive("mirror", MIRROR)
    first = server(["mirror.mar"])
    first.kill()
    assert (first.temp / ".model_server.pid").exists()
    left = list(first.temp.glob("modelserver-unpacked-*"))
    assert left
    second = server(["mirror.mar"], environment={"TMPDIR": str(first.temp)})
    assert second.predict("mirror", b"x").status_code == 200
    assert not any(folder.exists() for folder in left)


# --- stop ---


def test_a_running_request_is_answered_before_the_server_ends(server: Start, waits: Make, tmp_path: Path) -> None:
    waits()
    running = server(["waits.mar"])
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(running.predict, "waits", b"x")
        eventually((tmp_path / "busy").exists, "the request at the worker")
        running.process.terminate()
        eventually(lambda: not accepts(running.inference), "a closed port")
        assert running.process.poll() is None
        assert not request.done()
        (tmp_path / "gate").touch()
        answer = request.result()
    assert (answer.status_code, answer.text) == (200, "through")
    assert running.process.wait(10) == 0


def accepts(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("stop", ["terminate", "interrupt"])
def test_an_idle_server_ends_within_a_second(server: Start, make_archive: Make, stop: str) -> None:
    make_archive("mirror", MIRROR)
    running = server(["mirror.mar"])
    with requests.Session() as session:  # an idle kept-alive connection must not hold it up
        session.get(f"{running.inference}/ping", timeout=10)
        began_s = time.monotonic()
        running.process.send_signal(2 if stop == "interrupt" else 15)
        assert running.process.wait(10) == 0
    assert time.monotonic() - began_s < 2
    assert "Stopped." in running.log_text()


def test_a_second_signal_ends_it_at_once(server: Start, waits: Make, tmp_path: Path) -> None:
    waits()
    running = server(["waits.mar"])
    running.expected_exit = 1
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(running.predict, "waits", b"spin")
        eventually((tmp_path / "busy").exists, "a busy worker")
        running.process.terminate()
        eventually(lambda: "Stopping" in running.log_text(), "the first signal taken")
        running.process.terminate()
        assert running.process.wait(5) == 1
        with pytest.raises(requests.ConnectionError):
            lost.result()


def test_stopped_while_a_model_loads(server: Start, make_archive: Make) -> None:
    make_archive("loads", "import time\n\ndef handle(data, context):\n    time.sleep(1000)\n")
    running = server()
    assert running.register("loads.mar", initial_workers=2, synchronous="false").status_code == 202
    eventually(lambda: len(running.model_processes()) == 2, "two workers")
    running.process.terminate()
    assert running.process.wait(10) == 0


def test_unregistered_while_a_request_runs(server: Start, waits: Make, tmp_path: Path) -> None:
    """The request is answered, then the model goes."""
    waits()
    running = server(["waits.mar"])
    with ThreadPoolExecutor(2) as pool:
        request = pool.submit(running.predict, "waits", b"x")
        eventually((tmp_path / "busy").exists, "the request at the worker")
        removal = pool.submit(running.manage, "DELETE", "models/waits")
        eventually(lambda: running.describe("waits")[0]["workers"] == [], "the removal begun")
        assert running.predict("waits").status_code == 503
        assert not removal.done()
        (tmp_path / "gate").touch()
        assert request.result().text == "through"
        assert removal.result().json() == {"status": 'Model "waits" unregistered'}
    assert running.model_processes() == []
    assert running.unpacked() == []


def test_unregistered_while_it_loads(server: Start, make_archive: Make) -> None:
    make_archive("loads", "import time\n\ndef handle(data, context):\n    time.sleep(1000)\n")
    running = server()
    assert running.register("loads.mar", initial_workers=2, synchronous="false").status_code == 202
    eventually(lambda: len(running.model_processes()) == 2, "two workers")
    assert running.manage("DELETE", "models/loads").status_code == 200
    assert running.model_processes() == []
    assert running.unpacked() == []


def test_waiting_requests_of_a_model_that_is_unregistered_are_answered(
    server: Start, make_archive: Make, tmp_path: Path
) -> None:
    make_archive("loads", "import time\n\ndef handle(data, context):\n    time.sleep(1000)\n")
    running = server()
    assert running.register("loads.mar", initial_workers=1, synchronous="false").status_code == 202
    with ThreadPoolExecutor(3) as pool:
        requests_ = [pool.submit(running.predict, "loads", b"x") for _ in range(3)]
        eventually(lambda: running.describe("loads")[0]["jobQueueStatus"]["pendingRequests"] == 3, "three waiting")
        assert running.manage("DELETE", "models/loads").status_code == 200
        answers = [request.result() for request in requests_]
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert "The model was unregistered." in answers[0].json()["message"]


# --- start ---


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the server to its end, in a folder of its own."""
    (folder / "tmp").mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "CUDA_VISIBLE_DEVICES": ""}
    program = [sys.executable, "-P", "-m", "model_server.cli", "--start", "--foreground", *words]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("which", ["inference_address", "management_address"])
def test_a_port_in_use(tmp_path: Path, which: str) -> None:
    """Exit status 1, one line that names the address, nothing left behind."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"http://127.0.0.1:{holder.getsockname()[1]}"
        other = {"inference_address": "management_address", "management_address": "inference_address"}[which]
        (tmp_path / "store").mkdir()
        (tmp_path / "c.properties").write_text(f"{which}={address}\n{other}=http://127.0.0.1:0\n")
        words = ("--model-store", str(tmp_path / "store"), "--ts-config", str(tmp_path / "c.properties"))
        ended = command(tmp_path / "server", *words)
    assert ended.returncode == 1
    complaints = [line for line in (ended.stdout + ended.stderr).splitlines() if address in line]
    assert len([line for line in complaints if "Cannot listen on" in line]) == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert list((tmp_path / "server" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "Missing mandatory parameter --model-store"),
        (["--model-store", "absent"], "--model-store directory not found: absent"),
        (["--model-store", ".", "--ts-config", "absent"], "--ts-config file not found: absent"),
    ],
)
def test_a_start_that_cannot_be(tmp_path: Path, words: list[str], complaint: str) -> None:
    ended = command(tmp_path / "server", *words)
    assert ended.returncode == 1
    assert ended.stdout.strip() == complaint


def test_a_second_server_in_the_same_place(server: Start, make_archive: Make) -> None:
    running = server()
    environment = {**os.environ, "TMPDIR": str(running.temp)}
    program = [sys.executable, "-P", "-m", "model_server.cli", "--start", "--foreground", "--model-store", "."]
    ended = subprocess.run(
        program, cwd=running.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "TorchServe is already running, please use torchserve --stop to stop TorchServe." in ended.stdout
    assert running.infer("GET", "ping").status_code == 200


def test_a_model_that_fails_at_the_start_stops_no_other(server: Start, make_archive: Make) -> None:
    make_archive("fails", "def handle(data, context):\n    raise ValueError('no weights')\n")
    make_archive("mirror", MIRROR)
    (make_archive("junk", MIRROR)).write_bytes(b"no archive")
    running = server(["junk.mar", "fails.mar", "mirror.mar", "absent.mar"])
    assert running.predict("mirror", b"x").status_code == 200
    states = {event["name"]: (event["state"], event.get("reason")) for event in running.events if "state" in event}
    assert states["mirror"] == ("READY", None)
    assert states["fails"][0] == states["junk.mar"][0] == states["absent.mar"][0] == "FAILED"
    assert "ValueError: no weights" in str(states["fails"][1])
    assert "is no ZIP and no tar.gz" in str(states["junk.mar"][1])
    assert "Model not found at: absent.mar" in str(states["absent.mar"][1])
    assert "Model server started." in running.log_text()


def test_all_models_of_the_store(server: Start, make_archive: Make) -> None:
    for name in ("one", "two"):
        make_archive(name, MIRROR)
    make_archive("three", MIRROR, archive_format="no-archive")
    running = server(["all"])
    assert running.model_names() == ["one", "three", "two"]
    assert all(running.predict(name, b"x").status_code == 200 for name in running.model_names())


def test_workers_at_the_start(server: Start, make_archive: Make) -> None:
    make_archive("plain", MIRROR)
    make_archive("two", MIRROR, config={"minWorkers": 2, "maxWorkers": 2})
    running = server(["plain.mar", "two.mar"], {"default_workers_per_model": 3})
    assert [len(running.worker_pids(name)) for name in ("plain", "two")] == [3, 2]


def test_what_a_worker_is_given_to_see(server: Start, make_archive: Make) -> None:
    """The model's folder is current directory and on the path; hidden variables are hidden."""
    source = """
import os

def handle(data, context):
    folder = context.system_properties["model_dir"]
    return data and [{
        "here": os.getcwd() == folder,
        "on path": os.environ["PYTHONPATH"].split(":")[0] == folder,
        "name": context.model_name,
        "batch size": context.system_properties["batch_size"],
        "gpu": context.system_properties["gpu_id"],
        "server": context.system_properties["server_name"],
        "config": context.model_yaml_config,
        "secret": os.environ.get("MY_SECRET_KEY"),
        "kept": os.environ.get("MY_OTHER"),
    }] * len(data)
"""
    make_archive("sees", source, config={"batchSize": 2, "handler": {"own": [1, "two"]}})
    environment = {"MY_SECRET_KEY": "1", "MY_OTHER": "2"}
    running = server(["seen=sees.mar"], {"blacklist_env_vars": ".*SECRET.*"}, environment=environment)
    assert running.predict("seen", b"").json() == {
        "here": True,
        "on path": True,
        "name": "seen",
        "batch size": 2,
        "gpu": None,
        "server": "MMS",
        "config": {"batchSize": 2, "handler": {"own": [1, "two"]}},
        "secret": None,
        "kept": "2",
    }


def test_a_client_that_goes_away_takes_its_request_along(server: Start, waits: Make, tmp_path: Path) -> None:
    waits()
    running = server(["waits.mar"])
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.predict, "waits", b"x")
        eventually((tmp_path / "busy").exists, "the first request at the worker")
        connections = [half_a_client(running) for _ in range(20)]
        eventually(lambda: pending(running) >= 5, "waiting requests")
        for connection in connections:
            connection.close()
        eventually(lambda: pending(running) == 0, "no waiting requests")
        (tmp_path / "gate").touch()
        assert first.result().status_code == 200


def half_a_client(server: Server) -> socket.socket:
    """Asks and does not wait for the answer."""
    address = urlsplit(server.inference)
    connection = socket.create_connection((address.hostname, address.port))
    connection.sendall(b"POST /predictions/waits HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
    return connection


def pending(server: Server) -> int:
    return int(server.describe("waits")[0]["jobQueueStatus"]["pendingRequests"])


def test_an_expired_request(server: Start, waits: Make, tmp_path: Path) -> None:
    """`clientTimeoutInMills`: 504 where TorchServe never answers; the worker and its next request are not harmed."""
    waits(clientTimeoutInMills=500)
    running = server(["waits.mar"])
    answer = running.predict("waits", b"x")
    assert answer.status_code == 504
    assert "clientTimeoutInMills" in answer.json()["message"]
    (tmp_path / "gate").touch()
    assert running.predict("waits", b"x").text == "through"
