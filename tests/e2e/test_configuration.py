"""Configuration at work on the real server: stores, addresses, environment, flags, and what --check-config says."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import MIRROR, Servers, error_of

OWN_HANDLER = """
import beside
def mine(data, context):
    return data and [f"{beside.WORD} {context.model_name}"] * len(data)
"""


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


def modelserver(folder: Path, *words: str) -> Ended:
    command = [sys.executable, "-P", "-m", "model_server.cli", *words]
    environ = {**os.environ, "TMPDIR": str(folder)}
    # A server goes on writing where its launcher wrote: to files, which do not make anybody wait for their end.
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        ended = subprocess.run(command, cwd=folder, env=environ, stdout=out, stderr=err, timeout=60)
        return Ended(ended.returncode, (folder / "out").read_text(), (folder / "err").read_text())


def test_archives_of_several_stores(servers: Servers, tmp_path: Path) -> None:
    second = tmp_path / "second"
    for name in ("both", "only"):
        servers.archives.pack(name, MIRROR, version="2.0").rename(tmp_path / f"{name}.mar")
    second.mkdir()
    for name in ("both", "only"):
        (tmp_path / f"{name}.mar").rename(second / f"{name}.mar")
    servers.archives.pack("both", MIRROR)
    stores = f"{servers.archives.folder},{second}"
    server = servers.start(args=("--enable-model-api", "--model-store", stores), models=["all"])
    assert {name: server.describe(name)[0]["modelVersion"] for name in server.model_names()} == {
        "both": "1.0",
        "only": "2.0",
    }
    assert server.register("only.mar", model_name="again").status_code == 200


def test_a_default_handler_anywhere_is_the_operators_choice(servers: Servers, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "service.py").write_text(OWN_HANDLER)
    (code / "beside.py").write_text("WORD = 'from'\n")
    for name in ("plain", "other"):
        (servers.archives.folder / name).mkdir(parents=True)
        (servers.archives.folder / name / "weights.bin").touch()
    server = servers.start(["plain"], {"default_service_handler": f"{code}/service.py:mine"})
    assert server.predict("plain", b"x").text == "from plain"
    # Nobody else may name a file outside of the archive.
    (code / "other.py").write_text(OWN_HANDLER)
    answer = server.register("other", model_name="other", handler=f"{code}/other.py:mine", initial_workers=1)
    assert "is neither a file other.py in the archive nor one of" in error_of(answer)[2]


# --- addresses ---


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(path: Path, target: str) -> Any:
    connection = UnixConnection(path)
    connection.request("GET", target)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def test_unix_sockets_also_where_a_killed_server_left_them(servers: Servers, tmp_path: Path) -> None:
    inference, management = tmp_path / "i.sock", tmp_path / "m.sock"
    config = {"inference_address": f"unix:{inference}", "management_address": f"unix:{management}"}
    first = servers.start(config=config)
    assert ask(inference, "/ping") == {"status": "Healthy"}
    assert ask(management, "/models") == {"models": []}
    first.kill()
    second = servers.start(config=config)
    assert second.inference == f"unix:{inference}"
    assert ask(inference, "/ping") == {"status": "Healthy"}


# --- environment ---


def test_a_container_is_configured_by_its_environment(servers: Servers) -> None:
    """Placeholders and TS_* variables, as SageMaker's and KServe's containers have them."""
    servers.archives.pack("m", MIRROR)
    server = servers.start(
        config={
            "enable_envvars_config": "true",
            "inference_address": "http://127.0.0.1:$$BIND_TO_PORT$$",
            "load_models": "other.mar",
            "default_response_timeout": "$$RESPONSE_TIMEOUT$$",
        },
        args=(),
        environment={
            "BIND_TO_PORT": "0",
            "RESPONSE_TIMEOUT": "33",
            "TS_LOAD_MODELS": " named=m.mar ,",
            "TS_ENABLE_MODEL_API": "true",
            "TS_DEFAULT_WORKERS_PER_MODEL": "2",
        },
    )
    (model,) = server.describe("named")
    assert (model["responseTimeout"], model["minWorkers"], len(model["workers"])) == (33, 2, 2)
    assert server.register("m.mar", model_name="again", initial_workers=0).status_code == 200


def test_models_with_lines_that_go_on(servers: Servers) -> None:
    servers.archives.pack("m", MIRROR)
    table = (
        '{\\\n  "m": {\\\n    "1.0": {\\\n        "batchSize": 4,\\\n        "maxBatchDelay": 7\\\n    }\\\n  }\\\n}'
    )
    server = servers.start(["m.mar"], {"models": table})
    (model,) = server.describe("m")
    assert (model["batchSize"], model["maxBatchDelay"]) == (4, 7)


def test_keys_of_the_jvm_are_one_line_in_the_log(servers: Servers) -> None:
    config = {"vmargs": "-Xmx4g", "number_of_netty_threads": 32, "cpu_launcher_enable": "true", "job_queue_size": 5}
    text = servers.start(config=config).log_text()
    (line,) = [line for line in text.splitlines() if "has no effect here" in line]
    assert all(name in line for name in ("vmargs", "number_of_netty_threads", "cpu_launcher_enable"))
    assert "job_queue_size" not in line


# --- flags ---


def test_a_pid_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "my.properties").write_text(
        "inference_address=http://127.0.0.1:0\nmanagement_address=http://127.0.0.1:0\nenable_metrics_api=false\n"
        "grpc_inference_port=0\ngrpc_management_port=0\n"
    )
    pid_file = tmp_path / "my.pid"
    flags = ("--ts-config", "my.properties", "--model-store", "store", "--ncs", "--disable-token")
    flags += ("--pid-file", str(pid_file))
    started = modelserver(tmp_path, "--start", *flags)
    assert started.status == 0, started.err
    try:
        process = psutil.Process(int(pid_file.read_text()))
        assert not (tmp_path / ".model_server.pid").exists()
        assert f"  modelserver --stop --pid-file {pid_file}" in started.out.splitlines()
        assert "TorchServe is already running" in modelserver(tmp_path, "--start", *flags).out
        assert "is not currently running" in modelserver(tmp_path, "--stop").out
    finally:
        stopped = modelserver(tmp_path, "--stop", "--foreground", "--pid-file", str(pid_file))
    assert "TorchServe has stopped." in stopped.out
    # A process that nobody has reaped yet has ended, too.
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not pid_file.exists()


@pytest.fixture
def snapshot(tmp_path: Path, servers: Servers) -> Path:
    """A snapshot of the model store with one model, in a file."""
    servers.archives.pack("m", MIRROR, config={"batchSize": 2})
    entry = {
        "defaultVersion": True,
        "marName": "m.mar",
        "minWorkers": 3,
        "maxWorkers": 3,
        "batchSize": 8,
        "maxBatchDelay": 100,
    }
    text = json.dumps({"modelCount": 1, "models": {"m": {"1.0": entry}}})
    file = tmp_path / "my.cfg"
    file.write_text(f"model_store={servers.archives.folder}\nmodel_snapshot={text}\n")
    return file


def test_check_config_shows_what_a_snapshot_will_serve(snapshot: Path, tmp_path: Path) -> None:
    done = modelserver(tmp_path, "--check-config", "--ts-config", str(snapshot))
    assert done.status == 0, done.err
    rows = {line.split()[0]: line.split()[-2:] for line in done.out.splitlines() if line.startswith("  ")}
    assert rows["model_store"] == [str(tmp_path / "model_store"), f"{snapshot}:1"]
    assert rows["batch_size"] == ["8", "model_snapshot"]
    assert rows["min_workers"] == ["3", "model_snapshot"]
    assert rows["job_queue_size"][-1] in ("default", "job_queue_size")


def test_check_config_fetches_nothing_and_names_what_is_mistyped(snapshot: Path, tmp_path: Path) -> None:
    file = tmp_path / "typo.properties"
    store = tmp_path / "model_store"
    file.write_text(f"model_store={store}\nalowed_urls=x\nload_models=https://models.invalid/x.mar\n")
    done = modelserver(tmp_path, "--check-config", "--ts-config", str(file))
    assert done.status == 1
    assert f"mistake: {file}:2: unknown key alowed_urls, ignored, did you mean allowed_urls?" in done.err
    assert "note: https://models.invalid/x.mar: fetched when the server starts, not looked at now" in done.err
    assert sorted(os.listdir(store)) == ["m.mar"]
