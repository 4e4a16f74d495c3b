"""Clients and configurations that come with TorchServe, as they are: their calls, their files, what they look for.

Written down from the contract with TorchServe, appendix B and the commands of its documentation. Elsewhere: the gRPC
client script (test_grpc), `ts.launcher` (cli/test_ts_launcher), TLS and unix sockets (test_tls, test_configuration).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from grpc_clients import Client
from servers import MIRROR, Server, Servers, error_of, eventually

# Describes itself, and runs out of memory when it is told to.
MODEL = """
class Handler:
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"kind": "echo"}]
        texts = [bytes(row.get("body") or row.get("data") or b"") for row in data]
        if b"memory" in texts:
            raise MemoryError("no more")
        return [text.decode() for text in texts]
"""


# --- the commands of the documentation ---


@pytest.fixture(scope="module")
def documented(module_servers: Servers) -> Server:
    module_servers.archives.pack("noop", MODEL, version="2.0", file="noop_2.mar")
    for name in ("densenet161", "noop"):
        module_servers.archives.pack(name, MODEL)
    return module_servers.start(["densenet161.mar"])


class Curl:
    """Runs commands with the usual ports of TorchServe, which are those of the server here."""

    def __init__(self, server: Server) -> None:
        if shutil.which("curl") is None:
            pytest.skip("needs the command curl")
        self._server = server
        self._places = {"8080": server.inference, "8081": server.management, "8082": server.metrics}

    def __call__(self, command: str) -> str:
        for port, url in self._places.items():
            command = command.replace(f"localhost:{port}", urlsplit(url).netloc)
            command = command.replace(f"127.0.0.1:{port}", urlsplit(url).netloc)
        folder = self._server.folder
        done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout


@pytest.fixture
def curl(documented: Server) -> Curl:
    (documented.folder / "kitten.jpg").write_text("meow")
    return Curl(documented)


def test_inference_by_curl(curl: Curl) -> None:
    assert json.loads(curl("curl http://localhost:8080/ping")) == {"status": "Healthy"}
    assert json.loads(curl("curl -X OPTIONS http://localhost:8080"))["openapi"] == "3.0.1"
    assert curl("curl http://localhost:8080/predictions/densenet161 -T kitten.jpg") == "meow"
    assert curl("curl http://localhost:8080/predictions/densenet161 -F 'data=@kitten.jpg'") == "meow"
    assert curl("curl -X POST http://127.0.0.1:8080/predictions/densenet161/1.0 -d 'data=meow'") == "meow"
    assert curl(
        'curl -H "Content-Type: application/json" --data @kitten.jpg http://localhost:8080/predictions/densenet161'
    )
    assert curl("curl -X POST 'http://localhost:8080/invocations?model_name=densenet161' -T kitten.jpg") == "meow"
    assert curl("curl -X POST http://localhost:8080/models/densenet161/invoke -T kitten.jpg") == "meow"


def test_management_by_curl(curl: Curl, documented: Server) -> None:
    says = lambda command: json.loads(curl(command))  # noqa: E731
    registered = says('curl -X POST "http://localhost:8081/models?url=noop.mar&initial_workers=1&synchronous=true"')
    assert registered == {"status": 'Model "noop" Version: 1.0 registered with 1 initial workers'}
    assert says('curl -X POST "localhost:8081/models?url=noop_2.mar&initial_workers=0"') == {
        "status": 'Model "noop" Version: 2.0 registered with 0 initial workers. '
        "Use scale workers API to add workers for the model."
    }
    assert says('curl -v -X PUT "http://localhost:8081/models/noop?min_worker=3"') == {
        "status": "Processing worker updates..."
    }
    assert says('curl -v -X PUT "http://localhost:8081/models/noop?min_worker=2&max_worker=2&synchronous=true"') == {
        "status": "Workers scaled to 2 for model: noop"
    }
    assert says('curl -v -X PUT "http://localhost:8081/models/noop/2.0?min_worker=1&synchronous=true"') == {
        "status": "Workers scaled to 1 for model: noop, version: 2.0"
    }
    assert [each["modelVersion"] for each in says("curl http://localhost:8081/models/noop/all")] == ["1.0", "2.0"]
    described = says('curl "http://localhost:8081/models/noop?customized=true"')
    assert described[0]["customizedMetadata"] == {"kind": "echo"}
    names = [
        each["modelName"] for each in says('curl "http://localhost:8081/models?limit=2&next_page_token=0"')["models"]
    ]
    assert names == ["densenet161", "noop"]
    assert says("curl -v -X PUT http://localhost:8081/models/noop/2.0/set-default") == {
        "status": 'Default version successfully updated for model "noop" to "2.0"'
    }
    assert says("curl -X DELETE http://localhost:8081/models/noop/1.0") == {"status": 'Model "noop" unregistered'}
    assert says("curl -X DELETE http://localhost:8081/models/noop/") == {"status": 'Model "noop" unregistered'}
    assert says("curl http://localhost:8081/models/noop")["code"] == 404


def test_metrics_by_curl(curl: Curl) -> None:
    curl("curl http://localhost:8080/predictions/densenet161 -T kitten.jpg")
    assert "# TYPE Requests2XX counter" in curl("curl http://127.0.0.1:8082/metrics")
    names = ("ts_inference_latency_microseconds", "ts_queue_latency_microseconds")
    query = "&".join(f"name[]={name}" for name in names)
    filtered = curl(f'curl "http://127.0.0.1:8082/metrics?{query}" --globoff')
    assert {line.split()[2] for line in filtered.splitlines() if line.startswith("# TYPE")} == set(names)


def test_tokens_by_curl(module_servers: Servers, documented: Server) -> None:
    server = module_servers.start(["densenet161.mar"], tokens=True)
    curl = Curl(server)
    (server.folder / "kitten.jpg").write_text("meow")
    keys = {name: entry["key"] for name, entry in json.loads((server.folder / "key_file.json").read_text()).items()}
    predict = "curl http://localhost:8080/predictions/densenet161 -T kitten.jpg"
    assert json.loads(curl(predict))["type"] == "InvalidKeyException"
    assert curl(f'{predict} -H "Authorization: Bearer {keys["inference"]}"') == "meow"
    assert curl(f'curl localhost:8081/token?type=inference -H "Authorization: Bearer {keys["API"]}"').strip() == ""
    renewed = json.loads((server.folder / "key_file.json").read_text())["inference"]["key"]
    assert renewed != keys["inference"]
    assert curl(f'{predict} -H "Authorization: Bearer {renewed}"') == "meow"


# --- configurations of containers ---


def test_the_container_image(servers: Servers) -> None:
    servers.archives.pack("m", MIRROR)
    server = servers.start(
        ["m.mar"],
        {
            "inference_address": "http://0.0.0.0:0",
            "management_address": "http://0.0.0.0:0",
            "metrics_address": "http://0.0.0.0:0",
            "grpc_inference_address": "0.0.0.0",
            "grpc_management_address": "0.0.0.0",
            "number_of_netty_threads": "32",
            "job_queue_size": "1000",
            "workflow_store": servers.archives.folder,
        },
        args=["--disable-token-auth"],
    )
    assert server.predict("m", b"x").status_code == 200
    assert server.describe("m")[0]["jobQueueStatus"]["remainingCapacity"] == 1000
    assert error_of(server.register("m.mar", model_name="n"))[0] == 405  # it does not enable the model API


def test_sagemakers(servers: Servers, tmp_path: Path) -> None:
    """Every value comes from the environment; both APIs share a port, here a socket of a test's own."""
    socket = tmp_path / "both.sock"
    servers.archives.pack("m", MODEL)
    server = servers.start(
        config={
            "vmargs": "-XX:+UseContainerSupport",
            "model_store": "$$SAGEMAKER_MODEL_STORE$$",
            "load_models": "$$SAGEMAKER_MODELS$$",
            "inference_address": "$$SAGEMAKER_ADDRESS$$",
            "management_address": "$$SAGEMAKER_ADDRESS$$",
            "default_workers_per_model": "$$SAGEMAKER_WORKERS$$",
            "default_response_timeout": "$$SAGEMAKER_TIMEOUT$$",
            "decode_input_request": "false",
            "async_logging": "true",
        },
        environment={
            "SAGEMAKER_MODEL_STORE": str(servers.archives.folder),
            "SAGEMAKER_MODELS": "m.mar",
            "SAGEMAKER_ADDRESS": f"unix:{socket}",
            "SAGEMAKER_WORKERS": "1",
            "SAGEMAKER_TIMEOUT": "60",
        },
    )
    assert (server.inference, server.management) == (f"unix:{socket}", f"unix:{socket}")
    curl = f"curl -s --unix-socket {socket} http://localhost"

    def says(path: str, options: str = "") -> str:
        command = ["sh", "-c", f"{curl}{path} {options}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert json.loads(says("/ping")) == {"status": "Healthy"}
    assert says("/invocations", "-d text -H 'Content-Type: text/plain'") == "text"
    assert says("/models/m/invoke", "-d text -H 'Content-Type: text/plain'") == "text"
    assert json.loads(says("/models"))["models"][0]["modelName"] == "m"
    # What tells a multi-model endpoint to make room.
    assert json.loads(says("/invocations", "-d memory -H 'Content-Type: text/plain'"))["code"] == 507
    assert json.loads(says("/models/other/invoke", "-d x"))["code"] == 404


def test_kserves(servers: Servers, tmp_path: Path) -> None:
    """One address for both APIs, and a snapshot on one line, which wins over `load_models=all`."""
    servers.archives.pack("mnist", MODEL)
    servers.archives.pack("spare", MODEL)
    entry = {
        "1.0": {
            "defaultVersion": True,
            "marName": "mnist.mar",
            "minWorkers": 1,
            "maxWorkers": 5,
            "batchSize": 1,
            "maxBatchDelay": 5000,
            "responseTimeout": 120,
        }
    }
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {"mnist": entry}}
    server = servers.start(
        config={
            "metrics_mode": "prometheus",
            "NUM_WORKERS": "1",
            "number_of_netty_threads": "4",
            "job_queue_size": "10",
            "enable_envvars_config": "true",
            "install_py_dep_per_model": "true",
            "load_models": "all",
            "model_snapshot": json.dumps(snapshot),
        },
    )
    assert server.model_names() == ["mnist"]
    # The wrapper waits for a worker, and for what the handler says about itself.
    described = eventually(lambda: _is_ready(server), "a worker is ready")
    assert described["customizedMetadata"] == {"kind": "echo"}
    assert server.infer("POST", "predictions/mnist", data=b"7").text == "7"
    assert server.infer("POST", "v1/models/mnist:predict", data=b"7").text == "7"
    assert server.grpc_inference is not None
    with Client(server.grpc_inference, "inference") as client:
        assert client.call("Predictions", model_name="mnist", input={"data": b"7"}).prediction == b"7"
    # What the autoscaler's adapter asks Prometheus for.
    text = requests.get(f"{server.metrics}/metrics", timeout=30).text
    assert 'ts_queue_latency_microseconds{model_name="mnist",model_version="default",' in text


def _is_ready(server: Server) -> dict[str, object] | None:
    answer = server.manage("GET", "models/mnist?customized=true")
    if answer.status_code != 200:
        return None
    (described,) = answer.json()
    ready = [worker for worker in described["workers"] if worker["status"] == "READY"]
    return described if ready and "customizedMetadata" in described else None


# --- readers of logs ---


def test_the_benchmark_reads_the_metric_logs(servers: Servers) -> None:
    servers.archives.pack("m", MODEL)
    server = servers.start(["m.mar"])
    for _ in range(3):
        server.predict("m", b"x")
    logs = server.folder / "logs"
    wanted = {"model_metrics.log": ["PredictionTime"]}
    wanted["ts_metrics.log"] = ["QueueTime", "WorkerThreadTime", "CPUUtilization", "MemoryUtilization"]

    def values(file: str, metric: str) -> list[float]:
        lines = [line for line in (logs / file).read_text().splitlines() if metric in line]
        return [float(line.split("|")[0].split(":")[3]) for line in lines]

    def at_least(count: int, found: list[float]) -> list[float]:
        return found if len(found) >= count else []

    for file, metrics in wanted.items():
        for metric in metrics:
            count = 1 if "Utilization" in metric else 3
            found = eventually(lambda: at_least(count, values(file, metric)), metric)  # noqa: B023 (called at once)
            assert all(value >= 0 for value in found)
