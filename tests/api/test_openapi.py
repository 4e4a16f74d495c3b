"""The documents in which the server describes its API."""

from __future__ import annotations

from typing import Any

import pytest
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


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    module_servers.archives.pack("mirror", MIRROR)
    return module_servers.start(["mirror.mar"])


def documents(server: Server) -> dict[str, Any]:
    return {
        "inference": server.infer("OPTIONS", "").json(),
        "management": server.manage("OPTIONS", "").json(),
        "managed model": server.manage("OPTIONS", "models/mirror").json(),
    }


# Not "model": there TorchServe gives all three operations the model's name, and clients may know them by it.
@pytest.mark.parametrize("which", ["inference", "management", "managed model"])
def test_documents_are_valid(server: Server, which: str) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(documents(server)[which])


@pytest.mark.parametrize(("which", "expected"), [("inference", INFERENCE), ("management", MANAGEMENT)])
def test_operations_have_the_names_that_clients_were_generated_from(
    server: Server, which: str, expected: dict[tuple[str, str], str | None]
) -> None:
    document = documents(server)[which]
    found = {(path, method): op for path, methods in document["paths"].items() for method, op in methods.items()}
    assert expected.keys() <= found.keys()
    for place, name in expected.items():
        assert name in (None, found[place]["operationId"])


@pytest.mark.parametrize("which", ["inference", "management"])
def test_every_operation_says_what_it_takes_and_gives(server: Server, which: str) -> None:
    for methods in documents(server)[which]["paths"].values():
        for operation in methods.values():
            assert isinstance(operation["parameters"], list)
            assert all(response["description"] for response in operation["responses"].values())


def test_the_title_and_the_version(server: Server) -> None:
    info = documents(server)["inference"]["info"]
    assert (info["title"], info["version"]) == ("TorchServe APIs", __version__)
    assert documents(server)["managed model"]["info"]["title"] == "RESTful Management API for: mirror"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_the_deprecated_path_gives_the_same_document(server: Server, method: str) -> None:
    assert server.infer(method, "api-description").json() == documents(server)["inference"]
    assert server.manage(method, "api-description").json() == documents(server)["management"]


def test_the_description_is_marked_as_deprecated(server: Server) -> None:
    assert documents(server)["inference"]["paths"]["/api-description"]["get"]["deprecated"] is True
