"""TLS on every listener of the real server, with clients that check the certificate."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import psutil
import pytest
import requests
from certificates import Issued, issue, java_key_store, key_store
from grpc_clients import Client
from servers import MIRROR, RawAnswer, Server, Servers, eventually, exchange, together

ADDRESSES = {f"{api}_address": "https://localhost:0" for api in ("inference", "management", "metrics")}


def pem(issued: Issued) -> dict[str, object]:
    return {"private_key_file": issued.private_key, "certificate_file": issued.chain}


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issue(tmp_path_factory.mktemp("tls") / "files")


@pytest.fixture(scope="module")
def secure(module_servers: Servers, issued: Issued) -> Server:
    module_servers.archives.pack("m", MIRROR)
    module_servers.archives.pack("n", MIRROR)
    return module_servers.start(["m.mar"], {**ADDRESSES, **pem(issued), "enable_grpc_ssl": "true"})


@pytest.fixture
def client(issued: Issued) -> Iterator[requests.Session]:
    """Trusts the root only: it must get the whole chain."""
    with requests.Session() as session:
        session.verify = str(issued.root)
        session.trust_env = False
        yield session


def named(url: str) -> str:
    """The same place by its name, which the certificate has."""
    return f"https://localhost:{urlsplit(url).port}"


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def test_the_three_apis(secure: Server, client: requests.Session) -> None:
    for url in (secure.inference, secure.management, secure.metrics):
        assert url.startswith(("https://127.0.0.1:", "https://[::1]:"))
    answer = client.post(f"{named(secure.inference)}/predictions/m", data=b"\x00\xff")
    assert answer.status_code == 200
    assert answer.json()["parts"] == {"body": ["bytearray", "00ff"]}
    assert client.post(f"{named(secure.management)}/models?url=n.mar&initial_workers=1").status_code == 200
    assert [model["modelName"] for model in client.get(f"{named(secure.management)}/models").json()["models"]] == [
        "m",
        "n",
    ]
    assert "Requests2XX" in client.get(f"{named(secure.metrics)}/metrics").text


def test_a_connection_is_kept(secure: Server, client: requests.Session) -> None:
    for _ in range(3):
        assert client.get(f"{named(secure.inference)}/ping").status_code == 200
    server = psutil.Process(secure.process.pid)
    port = port_of(secure.inference)
    assert sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in server.net_connections()) == 1


def test_ipv4_and_ipv6_of_a_name(secure: Server, issued: Issued) -> None:
    found = {each[4][0] for each in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    for host in found:
        connection = socket.create_connection((host, port_of(secure.inference)), timeout=10)
        context = ssl.create_default_context(cafile=issued.root)
        with connection, context.wrap_socket(connection, server_hostname="localhost") as secured:
            assert secured.version() == "TLSv1.3"


def test_a_large_body(secure: Server, client: requests.Session) -> None:
    body = os.urandom(2_000_000)
    answer = client.post(f"{named(secure.inference)}/predictions/m", data=body)
    assert answer.json()["parts"]["body"][1] == body.hex()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_versions(secure: Server, issued: Issued) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=issued.root)
        context.minimum_version = context.maximum_version = version
        assert _handshake(secure, context)[0] == version.name.replace("_", ".")
    old = ssl.create_default_context(cafile=issued.root)
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        _handshake(secure, old)


def _handshake(server: Server, context: ssl.SSLContext) -> tuple[str | None, str | None]:
    """The version and the protocol that were agreed on."""
    connection = socket.create_connection(("127.0.0.1", port_of(server.inference)), timeout=10)
    with connection, context.wrap_socket(connection, server_hostname="localhost") as secured:
        return secured.version(), secured.selected_alpn_protocol()


def test_http_1_is_agreed_on_with_who_knows_more(secure: Server, issued: Issued) -> None:
    context = ssl.create_default_context(cafile=issued.root)
    context.set_alpn_protocols(["h2", "http/1.1"])
    assert _handshake(secure, context)[1] == "http/1.1"


def _plain(server: Server, request: bytes) -> RawAnswer:
    return exchange(f"http://127.0.0.1:{port_of(server.inference)}", request)


def test_plain_http_is_told_so(secure: Server) -> None:
    answer = _plain(secure, b"POST /predictions/m HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
    # The status and the text are TorchServe's.
    assert answer.status_line.startswith("HTTP/1.1 403")
    assert json.loads(answer.body) == {"status": "This TorchServe instance only accepts HTTPS requests"}
    assert answer.header("content-type") == "application/json"
    assert answer.closed


def test_what_is_neither(secure: Server) -> None:
    assert _plain(secure, b"junk\r\n\r\n").status == 400
    for start in (b"\x16\x03\x01 no client hello at all, and long enough to be read as one", b"\x16", b""):
        with socket.create_connection(("127.0.0.1", port_of(secure.inference)), timeout=30) as connection:
            connection.sendall(start)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000)[:1] in (b"", b"\x15")  # closed, at most with an alert


def test_who_says_nothing_keeps_nobody_waiting(secure: Server, client: requests.Session) -> None:
    silent = [socket.create_connection(("127.0.0.1", port_of(secure.inference))) for _ in range(300)]
    try:
        silent[0].sendall(b"\x16")
        together(*[lambda: client.get(f"{named(secure.inference)}/ping", timeout=5)] * 4)
        # Both kinds are cut off, well before the deadline of the test.
        for connection in silent[:2]:
            connection.settimeout(30)
            assert connection.recv(1) == b""
    finally:
        for connection in silent:
            connection.close()


def test_grpc(secure: Server, issued: Issued) -> None:
    for proto, target in (("inference", secure.grpc_inference), ("management", secure.grpc_management)):
        assert target is not None
        with Client(f"localhost:{target.rpartition(':')[2]}", proto, issued.root) as trusting:
            if proto == "inference":
                assert json.loads(trusting.call("Ping").health)["status"] == "Healthy"
            else:
                assert json.loads(trusting.call("ListModels", limit=10).msg)["models"]
        with Client(target, proto) as plain, pytest.raises(grpc.RpcError) as caught:
            plain.call("Ping" if proto == "inference" else "ListModels")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_key_stores(server: Callable[..., Server], tmp_path: Path, issued: Issued) -> None:
    store = key_store(issued, tmp_path / "store.p12", "open sesame")
    keys = {"keystore": store, "keystore_pass": "open sesame"}
    running = server(config={"inference_address": "https://127.0.0.1:0", **keys})
    answer = requests.get(f"{named(running.inference)}/ping", verify=str(issued.root), timeout=10)
    assert answer.json() == {"status": "Healthy"}
    assert requests.get(f"{running.management}/models", timeout=10).status_code == 200  # plain, as it is set
    assert "sesame" not in running.log_text()


def test_the_key_store_of_torchserves_documentation(server: Callable[..., Server], tmp_path: Path) -> None:
    store = java_key_store(tmp_path / "keystore.p12", "PKCS12")
    config = {"keystore": store, "keystore_pass": "changeit", "keystore_type": "PKCS12"}
    running = server(config={**ADDRESSES, **config})
    certificate = tmp_path / "own.pem"
    certificate.write_text(ssl.get_server_certificate(("localhost", port_of(running.inference))))
    assert requests.get(f"{named(running.inference)}/ping", verify=str(certificate), timeout=10).status_code == 200


def test_a_certificate_made_at_start(server: Callable[..., Server], tmp_path: Path) -> None:
    running = server(config={**ADDRESSES, "enable_grpc_ssl": "true"})
    assert "clients cannot check it" in running.log_text()
    root = tmp_path / "root.pem"
    root.write_text(ssl.get_server_certificate(("localhost", port_of(running.inference))))
    for host in ("localhost", "127.0.0.1"):
        url = f"https://{host}:{port_of(running.inference)}/ping"
        assert requests.get(url, verify=str(root), timeout=10).status_code == 200
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(url, timeout=10)
    assert running.grpc_inference is not None
    with Client(f"localhost:{running.grpc_inference.rpartition(':')[2]}", "inference", root) as trusting:
        trusting.call("Ping")


def test_a_renewed_certificate_without_a_restart(server: Callable[..., Server], tmp_path: Path, issued: Issued) -> None:
    files = Issued(tmp_path / "live.key", tmp_path / "live.pem", issued.root)
    install(issued, files)
    running = server(config={**ADDRESSES, **pem(files), "enable_grpc_ssl": "true"})
    assert is_trusted(running, issued.root)
    files.chain.write_text("half written")
    running.process.send_signal(signal.SIGHUP)
    eventually(lambda: "The TLS certificate stays as it was." in running.log_text(), "the mistake is logged")
    assert is_trusted(running, issued.root)
    renewed = issue(tmp_path / "renewed")
    install(renewed, files)
    running.process.send_signal(signal.SIGHUP)
    eventually(lambda: is_trusted(running, renewed.root), "new connections get the new certificate")
    assert not is_trusted(running, issued.root)
    assert running.grpc_inference is not None
    target = f"localhost:{running.grpc_inference.rpartition(':')[2]}"
    with Client(target, "inference", renewed.root) as new:
        new.call("Ping")
    with Client(target, "inference", issued.root) as old, pytest.raises(grpc.RpcError):
        old.call("Ping")


@pytest.mark.parametrize(("first", "second"), [("rsa", "ec"), ("ec", "rsa")])
def test_a_renewed_certificate_with_a_key_of_another_kind(
    server: Callable[..., Server], tmp_path: Path, first: str, second: str
) -> None:
    old, new = issue(tmp_path / "old", key=first), issue(tmp_path / "new", key=second)
    files = Issued(tmp_path / "live.key", tmp_path / "live.pem", old.root)
    install(old, files)
    running = server(config={**ADDRESSES, **pem(files)})
    install(new, files)
    running.process.send_signal(signal.SIGHUP)
    eventually(lambda: is_trusted(running, new.root), "new connections get the new certificate")
    assert not is_trusted(running, old.root)


def test_a_certificate_that_is_no_file_any_more(server: Callable[..., Server], tmp_path: Path, issued: Issued) -> None:
    """Reading a pipe would wait for whoever writes into it."""
    files = Issued(tmp_path / "live.key", tmp_path / "live.pem", issued.root)
    install(issued, files)
    running = server(config={**ADDRESSES, **pem(files)})
    files.private_key.unlink()
    os.mkfifo(files.private_key)
    running.process.send_signal(signal.SIGHUP)
    eventually(lambda: "The TLS certificate stays as it was." in running.log_text(), "the mistake is logged")
    assert "live.key is no file" in running.log_text()
    assert is_trusted(running, issued.root)


def test_a_renewed_key_that_grpc_does_not_know(server: Callable[..., Server], tmp_path: Path, issued: Issued) -> None:
    files = Issued(tmp_path / "live.key", tmp_path / "live.pem", issued.root)
    install(issued, files)
    running = server(config={**ADDRESSES, **pem(files), "enable_grpc_ssl": "true"})
    install(issue(tmp_path / "renewed", key="ed25519"), files)
    running.process.send_signal(signal.SIGHUP)
    eventually(lambda: "gRPC does not know the kind of the private key" in running.log_text(), "the mistake is logged")
    assert is_trusted(running, issued.root)


def install(issued: Issued, files: Issued) -> None:
    files.private_key.write_bytes(issued.private_key.read_bytes())
    files.chain.write_bytes(issued.chain.read_bytes())


def is_trusted(server: Server, root: Path) -> bool:
    try:
        return requests.get(f"{named(server.inference)}/ping", verify=str(root), timeout=10).status_code == 200
    except requests.exceptions.SSLError:
        return False


def test_the_end_of_a_server_with_open_connections(server: Callable[..., Server], issued: Issued) -> None:
    running = server(config={**ADDRESSES, **pem(issued)})
    context = ssl.create_default_context(cafile=issued.root)
    connection = socket.create_connection(("127.0.0.1", port_of(running.inference)))
    idle = context.wrap_socket(connection, server_hostname="localhost")
    others = [socket.create_connection(("127.0.0.1", port_of(running.inference))) for _ in range(3)]
    for other, begun in zip(others, (b"", b"\x16\x03\x01", b"GET /ping HT"), strict=True):
        other.sendall(begun)
    assert requests.get(f"{named(running.inference)}/ping", verify=str(issued.root), timeout=10).status_code == 200
    begun_s = time.monotonic()
    running.process.terminate()
    running.process.wait(30)
    assert time.monotonic() - begun_s < 15  # clients that do not say goodbye are not waited for
    for each in (idle, *others):
        each.close()


def test_a_taken_port(secure: Server, servers: Servers, issued: Issued) -> None:
    taken = f"https://localhost:{port_of(secure.inference)}"
    with pytest.raises(AssertionError, match="ended before 'listening'"):
        servers.start(config={"inference_address": taken, **pem(issued)})
    (failed,) = servers.running
    failed.expected_exit = failed.process.wait(30)
    assert failed.expected_exit == 1
    assert f"Cannot listen on {taken}: Address already in use" in failed.log_text()


def test_what_is_wrong_stops_the_start(tmp_path: Path, issued: Issued) -> None:
    file = tmp_path / "wrong.properties"
    file.write_text(f"inference_address=https://127.0.0.1:0\nprivate_key_file={issued.private_key}\n")
    for flag in ("--start", "--check-config"):
        command = [sys.executable, "-P", "-m", "model_server.cli", flag, "--ts-config", file, "--model-store", tmp_path]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        assert ended.stdout == (
            "Invalid configuration: TLS needs private_key_file and certificate_file: certificate_file is not set\n"
        )
