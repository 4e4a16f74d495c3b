"""The documents in which the server describes its API, and whether it is what they say."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from openapi_spec_validator import validate
from servers import MIRROR, Server, Servers

from model_server import __version__

INFERENCE = {
    ("/", "options"): "apiDescription",
    ("/ping", "get"): "ping",
    ("/v1/models/{model_name}:predict", "post"): None,
    ("/v2/models/{model_name}/infer", "post"): None,
    ("/predictions/{model_name}", "post"): "predictions",
    ("/predictions/{model_name}/{model_version}", "post"): "version_predictions",
    ("/api-description", "get"): "api-description",
}
MANAGEMENT = {
    ("/", "options"): "apiDescription",
    ("/models", "get"): "listModels",
    ("/models", "post"): "registerModel",
    ("/models/{model_name}", "get"): "describeModel",
    ("/models/{model_name}", "put"): "setAutoScale",
    ("/models/{model_name}", "delete"): "unregisterModel",
    ("/models/{model_name}/{model_version}", "get"): "version_describeModel",
    ("/models/{model_name}/{model_version}", "put"): "version_setAutoScale",
    ("/models/{model_name}/{model_version}", "delete"): "version_unregisterModel",
    ("/models/{model_name}/{model_version}/set-default", "put"): "setDefault",
    ("/api-description", "get"): "api-description",
}
# What only a server with tokens, or with the Open Inference Protocol, has.
TOKENS = {("/token", "put"): "renewToken"}
OPEN_INFERENCE = {("/v2", "get"): None, ("/v2/health/live", "get"): None, ("/v2/health/ready", "get"): None}


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    module_servers.archives.pack("mirror", MIRROR)
    return module_servers.start(["mirror.mar"])


@pytest.fixture(scope="module")
def guarded(module_servers: Servers, server: Server) -> Server:
    """With everything that can be turned on."""
    return module_servers.start(["mirror.mar"], {"ts_open_inference_protocol": "true"}, tokens=True)


def documents(server: Server) -> dict[str, Any]:
    return {
        "inference": server.infer("OPTIONS", "").json(),
        "management": server.manage("OPTIONS", "").json(),
        "metrics": requests.options(server.metrics, timeout=10).json(),
    }


PORTS = ("inference", "management", "metrics")


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(path, method): each for path, methods in document["paths"].items() for method, each in methods.items()}


# Not those of a model: there TorchServe gives all three operations the model's name, and clients may know them by it.
@pytest.mark.parametrize("which", PORTS)
def test_documents_are_valid(server: Server, guarded: Server, which: str) -> None:
    validate(documents(server)[which])
    validate(documents(guarded)[which])


def test_the_description_of_a_managed_model_is_valid(server: Server) -> None:
    document = server.manage("OPTIONS", "models/mirror").json()
    validate(document)
    assert document["info"]["title"] == "RESTful Management API for: mirror"


@pytest.mark.parametrize(("which", "expected"), [("inference", INFERENCE), ("management", MANAGEMENT)])
def test_operations_have_the_names_that_clients_were_generated_from(
    server: Server, which: str, expected: dict[tuple[str, str], str | None]
) -> None:
    found = operations(documents(server)[which])
    assert expected.keys() <= found.keys()
    for place, name in expected.items():
        assert name in (None, found[place]["operationId"])


@pytest.mark.parametrize("which", PORTS)
def test_every_operation_says_what_it_takes_and_gives(server: Server, which: str) -> None:
    for operation in operations(documents(server)[which]).values():
        assert isinstance(operation["parameters"], list)
        assert all(response["description"] for response in operation["responses"].values())


def test_what_is_not_turned_on_is_not_described(server: Server, guarded: Server) -> None:
    for which, extra in (("inference", OPEN_INFERENCE), ("management", TOKENS), ("metrics", {})):
        plain, full = (operations(documents(each)[which]).keys() for each in (server, guarded))
        assert full - plain == extra.keys()
        assert plain - full == set()


# --- what is described is there ---


def described_calls(server: Server) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Port, method, operation and path with a real model, of everything that changes nothing."""
    for port in PORTS:
        for (path, method), operation in operations(documents(server)[port]).items():
            if method != "delete" and operation["operationId"] not in ("setAutoScale", "version_setAutoScale"):
                yield port, method, operation, path.format(model_name="mirror", model_version="1.0")


def call(server: Server, port: str, method: str, path: str, **headers: str) -> requests.Response:
    url = {"inference": server.inference, "management": server.management, "metrics": server.metrics}[port]
    return requests.request(method, url + path, headers=headers, timeout=30)


def test_every_operation_is_there(server: Server) -> None:
    for port, method, operation, path in described_calls(server):
        answer = call(server, port, method, path)
        # Without its parameters a registration, and only that, makes no sense.
        expected = 400 if operation["operationId"] == "registerModel" else 200
        assert answer.status_code == expected, f"{method} {path}: {answer.text}"
        if schema := json_schema(operation):
            assert set(schema.get("required", ())) <= answer.json().keys()


def json_schema(operation: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = operation["responses"]["200"]["content"].get("application/json", {}).get("schema", {})
    return schema if schema.get("type") == "object" and operation["operationId"] != "registerModel" else {}


def test_operations_that_change_models(server: Server) -> None:
    found = operations(documents(server)["management"])
    for path, version in (("/models/{model_name}", ""), ("/models/{model_name}/{model_version}", "/1.0")):
        assert server.register("mirror.mar", model_name="other").status_code == 200
        assert {"put", "delete"} <= {method for place, method in found if place == path}
        assert server.manage("PUT", f"models/other{version}?min_worker=0").status_code == 202
        assert server.manage("DELETE", f"models/other{version}").status_code == 200


def test_an_operation_says_which_token_it_needs(guarded: Server) -> None:
    """And what says nothing needs none."""
    text = (guarded.folder / "key_file.json").read_text()
    keys = {name: entry["key"] for name, entry in json.loads(text).items()}
    described = documents(guarded)
    for port, method, operation, path in described_calls(guarded):
        (needed,) = [name for entry in operation["security"] for name in entry] if "security" in operation else [None]
        path += "?type=inference" if path == "/token" else ""
        assert (call(guarded, port, method, path).status_code == 200) == (needed is None), path
        if needed is None:
            continue
        assert (needed == "API") == path.startswith("/token")
        scheme = described[port]["components"]["securitySchemes"][needed]
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
        for name, key in keys.items() if needed != "API" else ():  # a renewal would take a key of ours away
            answer = call(guarded, port, method, path, Authorization=f"Bearer {key}")
            refused = answer.status_code == 400 and answer.json().get("type") == "InvalidKeyException"
            assert refused == (name != needed), f"{name} {path}: {answer.text}"


def test_a_managed_model_says_which_token_it_needs(guarded: Server) -> None:
    key = json.loads((guarded.folder / "key_file.json").read_text())["management"]["key"]
    document = guarded.manage("OPTIONS", "models/mirror", headers={"Authorization": f"Bearer {key}"}).json()
    validate(document)
    assert all(each["security"] == [{"management": []}] for each in operations(document).values())


def test_without_tokens_none_is_asked_for(server: Server) -> None:
    for document in documents(server).values():
        assert "components" not in document
        assert not [each for each in operations(document).values() if "security" in each]


def test_one_port_for_both_describes_both(module_servers: Servers, server: Server) -> None:
    folder = module_servers.archives.folder.parent
    address = f"unix:{folder}/both.sock"
    both = module_servers.start([], {"inference_address": address, "management_address": address})
    (served,) = {both.inference, both.management}
    assert served == address
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{folder}/both.sock")
    connection.request("OPTIONS", "/")
    document = json.loads(connection.getresponse().read())
    connection.close()
    validate(document)
    each = documents(server)
    assert operations(document).keys() == operations(each["inference"]).keys() | operations(each["management"]).keys()


# --- the document ---


def test_the_title_and_the_version(server: Server) -> None:
    info = documents(server)["inference"]["info"]
    assert (info["title"], info["version"]) == ("TorchServe APIs", __version__)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_the_deprecated_path_gives_the_same_document(server: Server, method: str) -> None:
    assert server.infer(method, "api-description").json() == documents(server)["inference"]
    assert server.manage(method, "api-description").json() == documents(server)["management"]


def test_the_description_is_marked_as_deprecated(server: Server) -> None:
    assert documents(server)["inference"]["paths"]["/api-description"]["get"]["deprecated"] is True


def test_operation_ids_are_unique(guarded: Server) -> None:
    for document in documents(guarded).values():
        ids = [each["operationId"] for each in operations(document).values()]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch(r"[A-Za-z0-9_-]+", each) for each in ids)
