"""How the gRPC ports come up, whom they let in, and how they end."""

from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_clients import CALL_DEADLINE_S, Client, error_of_call
from servers import Server, Servers, eventually

ECHO = "def handle(data, context):\n    return data and [bytes(row['data']) for row in data]\n"
GATED = """
import pathlib
import time


def handle(data, context):
    if not data:
        return None
    gate = pathlib.Path(bytes(data[0]["data"]).decode())
    (gate.parent / "began").touch()
    while not gate.exists():
        time.sleep(0.005)
    return ["through"]
"""
REFUSED = (
    "PERMISSION_DENIED",
    "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
)

# --- tokens ---


@pytest.fixture(scope="module")
def guarded(module_servers: Servers) -> Server:
    module_servers.archives.pack("echo", ECHO)
    return module_servers.start(["echo.mar"], tokens=True, args=())


@pytest.fixture(scope="module")
def keys(guarded: Server) -> dict[str, str]:
    document = json.loads((guarded.folder / "key_file.json").read_text())
    return {name: entry["key"] for name, entry in document.items()}


@pytest.fixture(scope="module")
def inference(guarded: Server) -> Iterator[Client]:
    with Client(str(guarded.grpc_inference), "inference") as client:
        yield client


@pytest.fixture(scope="module")
def management(guarded: Server) -> Iterator[Client]:
    with Client(str(guarded.grpc_management), "management") as client:
        yield client


@pytest.mark.parametrize("key", [None, "management", "API"])
@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
def test_predictions_need_the_inference_key(
    inference: Client, keys: dict[str, str], key: str | None, method: str
) -> None:
    call = lambda: inference.call(method, keys[key] if key else None, model_name="echo")  # noqa: E731
    assert error_of_call(call) == REFUSED


@pytest.mark.parametrize("key", [None, "inference", "API"])
def test_management_needs_the_management_key(management: Client, keys: dict[str, str], key: str | None) -> None:
    assert management.error("ListModels", keys[key] if key else None) == REFUSED


def test_a_conversation_needs_the_inference_key(inference: Client) -> None:
    call = lambda: inference.stub.StreamPredictions2(iter([]), timeout=CALL_DEADLINE_S)  # noqa: E731
    assert error_of_call(call) == REFUSED


def test_the_keys_open_their_ports(inference: Client, management: Client, keys: dict[str, str]) -> None:
    data = {"data": b"hello"}
    assert inference.call("Predictions", keys["inference"], model_name="echo", input=data).prediction == b"hello"
    assert json.loads(management.call("ListModels", keys["management"], limit=1).msg)["models"]


def test_probes_need_no_key(guarded: Server, inference: Client) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    assert inference.call("Ping").health == '{\n  "status": "Healthy"\n}'
    for target in (guarded.grpc_inference, guarded.grpc_management):
        with grpc.insecure_channel(str(target)) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_DEADLINE_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("method", ["RegisterModel", "UnregisterModel"])
def test_the_model_api_is_off_unless_it_is_enabled(management: Client, keys: dict[str, str], method: str) -> None:
    expected = ("PERMISSION_DENIED", "Model API disabled\norg.pytorch.serve.archive.model.ModelException")
    assert management.error(method, keys["management"]) == expected


def test_open_inference_is_off_unless_it_is_enabled(guarded: Server, keys: dict[str, str]) -> None:
    with Client(str(guarded.grpc_inference), "open_inference_grpc") as client:
        assert client.error("ServerLive")[0] == "UNIMPLEMENTED"
    headers = {"Authorization": f"Bearer {keys['inference']}"}
    assert guarded.infer("GET", "v2", headers=headers).status_code == 404


# --- start ---


@pytest.mark.parametrize("key", ["grpc_inference_port", "grpc_management_port"])
def test_a_taken_port_is_named(servers: Servers, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match="the server ended before 'listening'"):
            servers.start(config={key: port})
        (server,) = servers.running
        text = f"Cannot listen on grpc://127.0.0.1:{port}: Address already in use."
        assert text in server.log_text()
        server.expected_exit = 1
        server.process.wait(10)


def test_a_port_is_not_shared_with_another_server(server: Callable[..., Server], servers: Servers) -> None:
    first = server()
    port = str(first.grpc_inference).rpartition(":")[2]
    with pytest.raises(AssertionError, match="the server ended before 'listening'"):
        server(config={"grpc_inference_port": port})
    servers.running[-1].expected_exit = 1
    servers.running[-1].process.wait(30)  # it says so before it has ended
    assert f"grpc://127.0.0.1:{port}: Address already in use" in servers.running[-1].log_text()


def test_without_grpc_the_rest_is_served(
    server: Callable[..., Server], make_archive: Callable[..., Path], tmp_path: Path
) -> None:
    make_archive("echo", ECHO)
    absent = tmp_path / "without" / "grpc"
    absent.mkdir(parents=True)
    (absent / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'grpc'\", name='grpc')\n")
    running = server(["echo.mar"], environment={"PYTHONPATH": str(absent.parent)})
    assert running.grpc_inference is None
    assert running.predict("echo", {"data": "x"}).text == "x"
    lines = [line for line in running.log_text().splitlines() if "gRPC" in line]
    assert len(lines) == 1
    assert "gRPC is not served: pip install 'modelserver[grpc]' installs what it needs" in lines[0]


# --- end ---


def test_a_running_call_finishes_and_an_open_conversation_ends(
    server: Callable[..., Server], make_archive: Callable[..., Path], tmp_path: Path
) -> None:
    make_archive("gated", GATED)
    running = server(["gated.mar"])
    gate = tmp_path / "gate"
    over = threading.Event()

    def nothing() -> Iterator[Any]:
        over.wait(CALL_DEADLINE_S)
        yield from ()

    with Client(str(running.grpc_inference), "inference") as client:
        request = client.messages.PredictionsRequest(model_name="gated", input={"data": str(gate).encode()})
        call = client.stub.Predictions.future(request, timeout=CALL_DEADLINE_S)
        conversation = client.stub.StreamPredictions2(nothing(), timeout=CALL_DEADLINE_S)
        eventually((tmp_path / "began").exists, "the handler runs")
        running.process.send_signal(signal.SIGTERM)
        # It ends at once, long before the call that the server waits for.
        assert error_of_call(lambda: list(conversation)) == ("UNAVAILABLE", "The server is stopping.")
        assert running.process.poll() is None
        gate.touch()
        assert call.result().prediction == b"through"
        over.set()
    running.process.wait(10)
