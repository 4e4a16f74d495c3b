"""Tokens on the real server: keys, scopes, renewal, what stays secret, and the commands that go with it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from servers import MIRROR, Server, Servers, error_of, exchange, together

AUTHORIZATION = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
AUTHENTICATION = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
NAMES = ("management", "inference", "API")


def key_file(server: Server) -> Path:
    return server.folder / "key_file.json"


def keys(server: Server) -> dict[str, str]:
    return {name: entry["key"] for name, entry in json.loads(key_file(server).read_text()).items()}


def bearer(server: Server, name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {keys(server)[name]}"}


def is_refused(answer: requests.Response, message: str = AUTHORIZATION) -> bool:
    if answer.status_code != 400 or "InvalidKeyException" not in answer.text:
        return False
    assert error_of(answer) == (400, "InvalidKeyException", message)
    assert answer.headers["connection"] == "close"
    return True


@pytest.fixture(scope="module")
def mirror(module_servers: Servers) -> str:
    return module_servers.archives.pack("mirror", MIRROR).name


@pytest.fixture(scope="module")
def server(module_servers: Servers, mirror: str) -> Server:
    return module_servers.start([mirror], tokens=True)


@pytest.fixture(scope="module")
def combined(module_servers: Servers, mirror: str) -> Server:
    """One listener, on a unix socket, for both APIs; registering models is not allowed."""
    socket = module_servers.archives.folder.parent / "both.sock"
    address = {"inference_address": f"unix:{socket}", "management_address": f"unix:{socket}"}
    return module_servers.start([mirror], config=address, args=(), tokens=True)


# --- keys and scopes ---


def test_the_key_file(server: Server) -> None:
    document = json.loads(key_file(server).read_text())
    assert [(name, list(entry)) for name, entry in document.items()] == [
        ("management", ["key", "expiration time"]),
        ("inference", ["key", "expiration time"]),
        ("API", ["key"]),
    ]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", document["inference"]["expiration time"])
    assert key_file(server).stat().st_mode & 0o777 == 0o600
    assert f"Key file located at {key_file(server)}" in server.log_text()


@pytest.mark.parametrize("name", [*NAMES, None])
def test_each_port_takes_its_own_key_alone(server: Server, name: str | None) -> None:
    headers = bearer(server, name) if name else {}
    assert is_refused(server.manage("GET", "models", headers=headers)) == (name != "management")
    assert is_refused(server.predict("mirror", b"x", headers=headers)) == (name != "inference")
    assert is_refused(server.infer("GET", "nothing", headers=headers)) == (name != "inference")


def test_the_order_of_checks(server: Server) -> None:
    """Size and escapes before the token, the token before path and method."""
    assert server.predict("mirror", bytes(6_553_501)).status_code == 413
    assert exchange(server.inference, b"GET /predictions/%zz HTTP/1.1\r\nHost: x\r\n\r\n").status == 403
    assert is_refused(server.infer("GET", "nothing"))
    assert is_refused(server.manage("PATCH", "models"))
    assert server.manage("PATCH", "models", headers=bearer(server, "management")).status_code == 405


@pytest.mark.parametrize(
    ("method", "path"), [("OPTIONS", ""), ("GET", "api-description"), ("GET", "live"), ("GET", "ready")]
)
def test_what_every_port_tells_everybody(server: Server, method: str, path: str) -> None:
    assert server.infer(method, path).status_code == server.manage(method, path).status_code == 200


def test_health_needs_no_token(server: Server) -> None:
    assert server.infer("GET", "ping").json() == {"status": "Healthy"}
    assert server.manage("GET", "ready").json() == {"status": "Ready"}
    assert server.manage("GET", "live").json() == {"status": "Live"}
    assert [requests.get(f"{server.metrics}/{path}", timeout=30).status_code for path in ("ready", "metrics")] == [
        200,
        200,
    ]


@pytest.mark.parametrize(
    "lines",
    [
        "Authorization: Bearer wrong\r\nAuthorization: Bearer KEY",
        "Authorization: Bearer wrong, Bearer KEY",
        "Authorization: Bearer \xff\xfe\xe9",
        "Authorization: Bearer " + "x" * 7_000,
        "Authorization:",
        "X-Authorization: Bearer KEY",
        "Proxy-Authorization: Bearer KEY",
    ],
)
def test_headers_that_open_nothing(server: Server, lines: str) -> None:
    head = f"GET /models HTTP/1.1\r\nHost: x\r\n{lines.replace('KEY', keys(server)['management'])}\r\n\r\n"
    answer = exchange(server.management, head.encode("latin-1"))
    assert answer.status == 400 and answer.closed
    assert json.loads(answer.body)["message"] == AUTHORIZATION


def test_the_first_of_two_headers_counts(server: Server) -> None:
    head = f"GET /models HTTP/1.1\r\nHost: x\r\nauthorization: Bearer {keys(server)['management']}\r\n"
    answer = exchange(server.management, f"{head}Authorization: Bearer wrong\r\n\r\n".encode())
    assert answer.status == 200


# --- everything that changes something, in every spelling, by a stranger ---

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "delete", "FROB"]
TARGETS = [
    "/models",
    "/models?url=mirror.mar&model_name=stranger",
    "/models/mirror",
    "/models/mirror/1.0",
    "/models/mirror?min_worker=0&synchronous=true",
    "/models/mirror/1.0/set-default",
    "/token?type=management",
    "/v1/models/mirror",
    "/workflows",
]


def spellings(target: str, host: str) -> list[str]:
    path, _, query = target.partition("?")
    rest = f"?{query}" if query else ""
    escaped = "/" + "".join(f"%{ord(letter):02x}" for letter in path[1:])
    others = [
        f"/{path}",
        f"/.{path}",
        f"/x/..{path}",
        f"{path}/",
        f"{path};x",
        f"{path}%00",
        escaped,
        f"http://{host}{path}",
    ]
    return [target, *(f"{other}{rest}" for other in others), f"{path}?x=1&{query}"]


def test_a_stranger_changes_nothing(server: Server) -> None:
    def state() -> object:
        description = server.manage("GET", "models/mirror/all", headers=bearer(server, "management")).json()
        models = server.manage("GET", "models", headers=bearer(server, "management")).json()
        return [
            models,
            key_file(server).read_text(),
            [(model["minWorkers"], model["workers"][0]["id"]) for model in description],
        ]

    before = state()
    host = urlsplit(server.management).netloc
    targets = [spelling for target in TARGETS for spelling in spellings(target, host)]

    def attempt(method: str, target: str) -> tuple[str, str, int]:
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nX-HTTP-Method-Override: DELETE\r\nConnection: close\r\n"
        # HEAD answers have a length and no body.
        body = exchange(server.management, f"{head}Content-Length: 0\r\n\r\n".encode())
        return method, target, body.status

    def attempts(method: str) -> list[tuple[str, str, int]]:
        return [attempt(method, target) for target in targets]

    done = list(itertools.chain(*together(*(lambda method=method: attempts(method) for method in METHODS))))
    assert [each for each in done if each[2] not in (400, 403, 404, 405)] == []
    assert state() == before


# --- renewal ---


def renewal(server: Server, scope: str, headers: Mapping[str, str], method: str = "GET") -> requests.Response:
    return server.manage(method, "token", params={"type": scope}, headers=headers)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_renewal(server: Server, method: str) -> None:
    before, old = keys(server), bearer(server, "inference")
    answer = renewal(server, "inference", bearer(server, "API"), method)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"\n", "application/json")
    after = keys(server)
    assert [name for name in NAMES if before[name] != after[name]] == ["inference"]
    assert is_refused(server.predict("mirror", b"x", headers=old))
    assert server.predict("mirror", b"x", headers=bearer(server, "inference")).status_code == 200
    assert key_file(server).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "query", ["", "type=", "type=API", "type=Inference", "type=x&type=inference", "Type=inference"]
)
def test_renewal_of_nothing(server: Server, query: str) -> None:
    before = keys(server)
    assert is_refused(server.manage("GET", f"token?{query}", headers=bearer(server, "API")), AUTHENTICATION)
    assert keys(server) == before


@pytest.mark.parametrize("name", ["management", "inference", None])
def test_renewal_with_another_key(server: Server, name: str | None) -> None:
    before = keys(server)
    assert is_refused(renewal(server, "management", bearer(server, name) if name else {}), AUTHENTICATION)
    assert keys(server) == before


def test_only_the_exact_path_renews(server: Server) -> None:
    management, api = bearer(server, "management"), bearer(server, "API")
    assert is_refused(server.manage("GET", "token/x?type=inference", headers=api))
    assert server.manage("GET", "tokens", headers=management).status_code == 404
    assert error_of(server.manage("GET", "models/token", headers=management))[2] == "Model not found: token"
    assert server.infer("GET", "token?type=inference", headers=bearer(server, "inference")).status_code == 404
    assert is_refused(server.infer("GET", "token?type=inference", headers=api))


def test_renewals_at_the_same_time(server: Server) -> None:
    """Whatever their order, the file says what holds."""
    api = bearer(server, "API")
    wanted = ["inference", "management"] * 10
    answers = together(*(lambda scope=scope: renewal(server, scope, api) for scope in wanted))
    assert {answer.status_code for answer in answers} == {200}
    assert server.predict("mirror", b"x", headers=bearer(server, "inference")).status_code == 200
    assert server.manage("GET", "models", headers=bearer(server, "management")).status_code == 200
    assert [path.name for path in server.folder.glob("*key_file*")] == ["key_file.json"]


# --- one port for both ---


def ask(server: Server, method: str, path: str, name: str | None) -> tuple[int, str]:
    """Status and body, over the unix socket."""
    key = ["-H", f"Authorization: Bearer {keys(server)[name]}"] if name else []
    socket = server.inference.removeprefix("unix:")
    command = ["curl", "-sS", "--unix-socket", socket, "-X", method, "-w", "\n%{http_code}", *key, f"http://x/{path}"]
    body, _, status = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("POST", "predictions/mirror", "inference"),
        ("POST", "models/mirror/invoke", "inference"),
        ("POST", "v1/models/mirror:predict", "inference"),
        ("GET", "models", "management"),
        ("GET", "models/mirror", "management"),
        ("GET", "models/mirror/1.0", "management"),
        ("GET", "v1/models/mirror", "management"),
        ("PUT", "models/mirror?min_worker=1&synchronous=true", "management"),
        ("GET", "token?type=inference", "API"),
    ],
)
def test_on_a_common_port_the_path_decides(combined: Server, method: str, path: str, needed: str) -> None:
    accepted = [name for name in (*NAMES, None) if ask(combined, method, path, name)[0] == 200]
    assert accepted == [needed]


def test_a_common_port_tells_its_health(combined: Server) -> None:
    assert [ask(combined, "GET", path, None)[0] for path in ("ping", "live", "ready", "api-description")] == [200] * 4


@pytest.mark.parametrize(("method", "path"), [("POST", "models?url=mirror.mar"), ("DELETE", "models/mirror")])
def test_models_that_may_not_be_changed(combined: Server, method: str, path: str) -> None:
    """Behaviour 28: registering and unregistering are off unless allowed; describing works."""
    status, body = ask(combined, method, path, "management")
    text = "Requested method is not allowed, please refer to API document."
    assert body == f'{{\n  "code": 405,\n  "type": "MethodNotAllowedException",\n  "message": "{text}"\n}}\n'
    assert status == 405
    assert json.loads(ask(combined, "GET", "models/mirror", "management")[1])[0]["modelName"] == "mirror"


# --- secrets and their end ---


def test_no_key_where_others_look(servers: Servers) -> None:
    servers.archives.pack("mirror", MIRROR)
    server = servers.start(["mirror.mar"], tokens=True)
    first = keys(server)
    assert renewal(server, "inference", bearer(server, "API")).status_code == 200
    server.predict("mirror", b"x", headers=bearer(server, "inference"))
    server.predict("mirror", b"x", headers=bearer(server, "management"))
    secrets = {*first.values(), *keys(server).values()}
    processes = [psutil.Process(server.process.pid), *server.processes()]
    shown = [str((process.cmdline(), process.environ())) for process in processes]
    shown += [server.manage("GET", "models/mirror?customized=true", headers=bearer(server, "management")).text]
    shown += [json.dumps(server.events), requests.get(f"{server.metrics}/metrics", timeout=30).text]
    servers.running.remove(server)
    server.stop()
    shown += [path.read_text(errors="replace") for path in server.folder.rglob("*") if path.is_file()]
    assert not key_file(server).exists()
    assert len(shown) > 5 and not [secret for secret in secrets if any(secret in text for text in shown)]


def test_a_server_without_tokens(servers: Servers) -> None:
    server = servers.start(config={"inference_address": "http://0.0.0.0:0"})
    assert not key_file(server).exists()
    assert server.infer("GET", "nothing").status_code == 404
    assert server.manage("GET", "models").status_code == 200
    warned = re.findall("(http://.*) can be reached from other machines, and requests need no token", server.log_text())
    assert warned == ["http://0.0.0.0:0"]
    assert error_of(server.manage("GET", "token?type=inference"))[1] == "ResourceNotFoundException"


def test_tokens_that_the_environment_turns_on_and_that_expire(servers: Servers) -> None:
    """Behaviour 29: it beats the flag. A lifetime of a millisecond is over when the server is up."""
    config = {
        "enable_envvars_config": "true",
        "token_expiration_min": 1 / 60_000,
        "inference_address": "http://0.0.0.0:0",  # nothing to warn of
    }
    server = servers.start(config=config, environment={"TS_DISABLE_TOKEN_AUTHORIZATION": "false"})
    assert is_refused(server.manage("GET", "models", headers=bearer(server, "management")))
    assert is_refused(server.infer("GET", "nothing", headers=bearer(server, "inference")))
    assert "can be reached from other machines" not in server.log_text()
    before = keys(server)
    assert renewal(server, "management", bearer(server, "API")).status_code == 200  # that key never expires
    assert keys(server)["management"] != before["management"]


def test_a_key_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "key_file.json").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "config.properties").write_text(
        "inference_address=http://127.0.0.1:0\nmanagement_address=http://127.0.0.1:0\n"
        "metrics_address=http://127.0.0.1:0\ngrpc_inference_port=0\ngrpc_management_port=0\n"
    )
    command = [sys.executable, "-P", "-m", "model_server.cli", "--foreground", "--model-store", "store", "--ncs"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    expected = (
        f"The key file {tmp_path / 'key_file.json'} cannot be written: Is a directory. Start the server in a folder"
    )
    assert expected in done.stdout and "--disable-token-auth" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_second_server_that_does_not_start_leaves_the_first_ones_keys(servers: Servers) -> None:
    first = servers.start(tokens=True)
    before = key_file(first).read_text()
    (first.folder / "second").mkdir()
    config = first.folder / "second.properties"
    config.write_text(f"inference_address={first.inference}\nmanagement_address=http://127.0.0.1:0\n")
    command = [sys.executable, "-P", "-m", "model_server.cli", "--foreground", "--ncs", "--ts-config", str(config)]
    command += ["--model-store", str(first.model_store)]
    environment = {**os.environ, "TMPDIR": str(first.folder / "second")}
    done = subprocess.run(command, cwd=first.folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "Cannot listen on" in done.stdout
    assert key_file(first).read_text() == before


# --- the commands ---


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a line as a user does; what it prints. The server that it may start ends with the test."""
    (tmp_path / "tmp").mkdir()
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "CUDA_VISIBLE_DEVICES": ""}
    environment["PATH"] = os.pathsep.join([binaries, os.environ["PATH"]])

    lines = itertools.count()

    def run(line: str, folder: Path = tmp_path, status: int = 0) -> str:
        log = tmp_path / "tmp" / f"said-{next(lines)}"
        with log.open("wb") as output:  # no pipe: a server that goes on would hold it open
            done = subprocess.run(
                line, shell=True, cwd=folder, env=environment, stdout=output, stderr=output, timeout=90
            )
        assert done.returncode == status, log.read_text()
        return log.read_text()

    yield run
    pid_file = tmp_path / "tmp" / ".model_server.pid"
    if pid_file.exists():
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_what_the_banner_prints_works_as_pasted(shell: Callable[..., str], tmp_path: Path, make_archive: Any) -> None:
    make_archive("mirror", MIRROR)
    addresses = "inference_address=http://127.0.0.1:0\nmanagement_address=http://127.0.0.1:0\n"
    addresses += "metrics_address=http://127.0.0.1:0\ngrpc_inference_port=0\ngrpc_management_port=0\n"
    (tmp_path / "config.properties").write_text(addresses)
    (tmp_path / "elsewhere").mkdir()
    said = shell("modelserver --start --model-store model_store --models mirror.mar --ncs")
    document = json.loads((tmp_path / "key_file.json").read_text())
    assert not any(entry["key"] in said for entry in document.values())
    assert f"The tokens are in {tmp_path / 'key_file.json'}" in said
    lines = [line.strip() for line in said.splitlines() if line.startswith("  curl ")]
    answers = [
        shell(line.replace("curl ", "curl -sSf ", 1).replace("FILE", str(tmp_path / "config.properties")), folder)
        for line in lines
        for folder in (tmp_path, tmp_path / "elsewhere")
    ]
    assert ["parts" in answer for answer in answers] == [True, True, False, False, False, False]
    assert '"Healthy"' in answers[2] and '"mirror.mar"' in answers[4]

    management = re.search(r"http://\S+(?=/models)", lines[2])
    assert management is not None
    old = shell("modelserver token show management")
    renewed = shell(f"modelserver token renew management --url {management[0]}", tmp_path / "elsewhere")
    assert renewed == shell("modelserver token show management") != old
    assert shell(f"curl -sS {management[0]}/models -H '{old.strip()}'").count("InvalidKeyException") == 1
    assert "mirror.mar" in shell(f"curl -sS {management[0]}/models -H '{renewed.strip()}'")
    assert "TorchServe has stopped." in shell("modelserver --stop --foreground")
    assert not (tmp_path / "key_file.json").exists()
    assert "no key_file.json here" in shell("modelserver token show inference", status=1)
