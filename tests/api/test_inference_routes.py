"""Which paths and methods of the inference port reach a handler, and what the path adds to the request."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from servers import MIRROR, Server, Servers, error_of, exchange

NOT_FOUND = "Requested resource is not found, please refer to API document."


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    for version in ("1.0", "2.0"):
        module_servers.archives.pack("mirror", MIRROR, version=version, file=f"mirror-{version}.mar")
    return module_servers.start(["mirror=mirror-1.0.mar", "mirror=mirror-2.0.mar"])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_the_method_of_a_prediction_does_not_matter(server: Server, method: str) -> None:
    answer = server.infer(method, "predictions/mirror", data=b"text")
    assert answer.status_code == 200
    assert answer.json()["parts"] == {"body": ["bytearray", b"text".hex()]}


def test_curl_upload_predicts(server: Server, tmp_path: Path) -> None:
    """`curl -T` sends PUT, and for more than 1 MiB waits for `100 Continue`."""
    content = bytes(range(256)) * 5000
    (tmp_path / "sample.bin").write_bytes(content)
    url = f"{server.inference}/predictions/mirror"
    output = subprocess.run(["curl", "-sS", url, "-T", tmp_path / "sample.bin"], capture_output=True, check=True).stdout
    assert json.loads(output)["parts"] == {"body": ["bytearray", content.hex()]}


@pytest.mark.parametrize(
    ("path", "version", "explain", "url_path"),
    [
        ("predictions/mirror", "1.0", "False", ""),
        ("predictions/mirror/", "1.0", "False", ""),
        ("predictions/mirror///", "1.0", "False", ""),
        ("predictions%2Fmirror", "1.0", "False", ""),
        ("predictions/mirror/2.0", "2.0", "False", ""),
        ("predictions/mirror/2.0/a/b", "2.0", "False", "a/b"),
        ("predictions/mirror/1.0/a%2Fb/c%20d", "1.0", "False", "a/b/c d"),
        ("explanations/mirror", "1.0", "True", ""),
        ("explanations/mirror/2.0", "2.0", "True", ""),
        ("explanations/mirror/2.0/a/b", "2.0", "True", "a/b"),
        ("v1/models/mirror:predict", "1.0", "False", None),
        ("v1/models/mirror:explain", "1.0", "True", None),
        ("v2/models/mirror/infer", "1.0", "False", None),
        ("v2/models/mirror/explain", "1.0", "True", None),
        ("invocations?model_name=mirror", "1.0", None, None),
        ("models/mirror/invoke", "1.0", None, None),
        ("mirror/predict", "1.0", None, None),
        ("mirror/2.0/predict", "2.0", None, None),
    ],
)
def test_routes_that_predict(
    server: Server, path: str, version: str, explain: str | None, url_path: str | None
) -> None:
    answer = server.infer("POST", path, data=b"text")
    assert answer.status_code == 200, answer.text
    seen = answer.json()
    assert (seen["version"], seen["headers"].get("explain"), seen["headers"].get("url_path")) == (
        version,
        explain,
        url_path,
    )


def test_a_header_of_the_route_replaces_that_of_the_client(server: Server) -> None:
    headers = server.infer("POST", "predictions/mirror", data=b"x", headers={"explain": "True"}).json()["headers"]
    assert headers["explain"] == "False"


@pytest.mark.parametrize(
    "path",
    [
        "predictions",
        "explanations",
        "models/mirror/other",
        "models/mirror",
        "models",
        "nothing",
        "v2",
        "v2/health/live",
        "v1/models/mirror",
        "v1/models/mirror:other",
        "/predictions/mirror",
        "wfpredict/flow",
    ],
)
def test_other_paths_are_not_found(server: Server, path: str) -> None:
    assert error_of(server.infer("POST", path, data=b"x")) == (404, "ResourceNotFoundException", NOT_FOUND)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("predictions/absent", (404, "ModelNotFoundException", "Model not found: absent")),
        ("explanations/absent", (404, "ModelNotFoundException", "Model not found: absent")),
        ("models/absent/invoke", (404, "ModelNotFoundException", "Model not found: absent")),
        ("invocations?model_name=absent", (404, "ModelNotFoundException", "Model not found: absent")),
        ("v1/models/absent:predict", (404, "ModelNotFoundException", "Model not found: absent")),
        (
            "predictions/mirror/9",
            (404, "ModelVersionNotFoundException", "Model version: 9 does not exist for model: mirror"),
        ),
        (
            "mirror/9/predict",
            (404, "ModelVersionNotFoundException", "Model version: 9 does not exist for model: mirror"),
        ),
        ("invocations", (400, "BadRequestException", "Parameter model_name is required.")),
    ],
)
def test_models_that_are_not_there(server: Server, path: str, error: tuple[int, str, str]) -> None:
    assert error_of(server.infer("POST", path, data=b"x")) == error


def test_invocations_find_the_model_in_a_form_field(server: Server) -> None:
    answer = server.infer("POST", "invocations", files={"model_name": (None, "mirror"), "data": (None, "x")})
    assert answer.json()["parts"] == {"model_name": ["bytearray", b"mirror".hex()], "data": ["bytearray", b"x".hex()]}


def test_invocations_fall_back_to_the_only_startup_model(servers: Servers) -> None:
    servers.archives.pack("only", MIRROR)
    server = servers.start(["only.mar"])
    assert server.infer("POST", "invocations", data=b"x").json()["parts"] == {"body": ["bytearray", b"x".hex()]}


@pytest.mark.parametrize(
    "name", ["%2e%2e", "..", ".", "%00", "%0A", "%22", "%5C", "CON", "%20", "m%C3%AFrror", "a" * 300]
)
def test_odd_names_are_models_that_are_not_there(server: Server, name: str) -> None:
    answer = exchange(server.inference, f"GET /predictions/{name} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert (answer.status, json.loads(answer.body)["type"]) == (404, "ModelNotFoundException")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_the_root_has_only_a_description(server: Server, method: str) -> None:
    message = "Requested method is not allowed, please refer to API document."
    assert error_of(server.infer(method, "")) == (405, "MethodNotAllowedException", message)


@pytest.mark.parametrize("path", ["predictions/mirror", "v2/models/mirror/infer", "models/mirror/invoke"])
def test_options_describe_a_model(server: Server, path: str) -> None:
    answer = server.infer("OPTIONS", path)
    assert answer.status_code == 200
    document = answer.json()
    assert document["info"] == {"title": "RESTful API for: mirror", "version": "1.0.0"}
    assert {operation["post"]["operationId"] for operation in document["paths"].values()} == {"mirror"}


def test_options_of_an_unknown_model(server: Server) -> None:
    assert error_of(server.infer("OPTIONS", "predictions/absent"))[:2] == (404, "ModelNotFoundException")


@pytest.mark.parametrize("path", ["ping", "ping/", "ping/more/of/it"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_ping(server: Server, path: str, method: str) -> None:
    answer = server.infer(method, path)
    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})


@pytest.mark.parametrize("path", ["predictions/%zz", "predictions/mirror%2", "%"])
def test_a_broken_percent_escape_is_forbidden(server: Server, path: str) -> None:
    answer = exchange(server.inference, f"GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    assert answer.status == 403
    assert json.loads(answer.body)["type"] == "IllegalArgumentException"


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /" + "a" * 20000 + " HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /ping HTTP/1.1\r\nHost: h\r\nX: " + "a" * 20000 + "\r\n\r\n",
        "not http at all\r\n\r\n",
        "GET /ping HTTP/1.1\r\nHost: h\r\nContent-Length: ten\r\n\r\n",
    ],
    ids=["long line", "long header", "no http", "bad length"],
)
def test_what_is_no_http_message(server: Server, request_text: str) -> None:
    answer = exchange(server.inference, request_text.encode())
    assert answer.status == 400
    assert json.loads(answer.body) == {"code": 400, "type": "BadRequestException", "message": "Invalid HTTP message."}
    assert answer.closed
    assert server.infer("GET", "ping").status_code == 200


def test_one_address_for_both_apis(servers: Servers) -> None:
    servers.archives.pack("mirror", MIRROR)
    address = f"unix:{servers.archives.folder.parent}/both.sock"
    server = servers.start(["mirror.mar"], {"inference_address": address, "management_address": address})
    call = ["curl", "-sS", "--unix-socket", address.removeprefix("unix:")]

    def get(path: str) -> Any:
        return json.loads(subprocess.run([*call, f"http://h/{path}"], capture_output=True, check=True).stdout)

    assert get("ping") == {"status": "Healthy"}
    assert get("predictions/mirror")["parts"] == {"body": ["bytearray", ""]}
    assert get("models") == {"models": [{"modelName": "mirror", "modelUrl": "mirror.mar"}]}
    assert {"/ping", "/models"} <= set(get("api-description")["paths"])
    assert server.inference == server.management == address
