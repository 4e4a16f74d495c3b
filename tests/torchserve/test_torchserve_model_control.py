"""Model control: without --enable-model-api models can be looked at and scaled, not registered or unregistered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from comparison import Case
from grpc_clients import Client
from pairs import Endpoints, Pair, side_by_side
from peer_archives import Archive, pack_all
from wire_exchange import Request

CASES = [
    Case("register", Request("POST", "/models?url=spare.mar")),
    Case("register what is not there", Request("POST", "/models?url=absent.mar")),
    Case("register nothing", Request("POST", "/models")),
    Case(
        "register by a body",
        Request("POST", "/models", (("Content-Type", "application/json"),), (b'{"url": "spare.mar"}',)),
    ),
    Case("unregister", Request("DELETE", "/models/m")),
    Case("unregister a version", Request("DELETE", "/models/m/1.0")),
    Case("unregister what is not there", Request("DELETE", "/models/absent")),
    Case("list", Request("GET", "/models")),
    Case("scale", Request("PUT", "/models/m?min_worker=1&max_worker=1&synchronous=true")),
    Case("set the default", Request("PUT", "/models/m/1.0/set-default")),
    Case("another method", Request("PUT", "/models")),
]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "register": ("RegisterModel", {"url": "spare.mar"}),
    "unregister": ("UnregisterModel", {"model_name": "m"}),
    "unregister what is not there": ("UnregisterModel", {"model_name": "absent"}),
    "list": ("ListModels", {"limit": 10}),
    "scale": ("ScaleWorker", {"model_name": "m", "min_worker": 1, "max_worker": 1, "synchronous": True}),
}


@pytest.fixture(scope="module")
def fixed(torchserve_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("fixed")
    pack_all([Archive("m", "mirror"), Archive("spare", "mirror")], folder / "store", folder / "inputs")
    with side_by_side(folder, folder / "store", ["m.mar"], {}, model_api=False) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_by_rest(fixed: Pair, case: Case) -> None:
    fixed.check_management(case)


def test_a_description(fixed: Pair) -> None:
    theirs, ours = fixed.both(lambda server: server.manage(Request("GET", "/models/m")))
    assert (theirs.status, ours.status) == (200, 200)


@pytest.mark.parametrize("name", CALLS)
def test_by_grpc(fixed: Pair, name: str) -> None:
    method, fields = CALLS[name]
    theirs, ours = fixed.both(asking(method, fields))
    assert theirs == ours


def asking(method: str, fields: dict[str, Any]) -> Callable[[Endpoints], tuple[str, str]]:
    def ask(server: Endpoints) -> tuple[str, str]:
        with Client(server.grpc_management, "management") as client:
            try:
                return "OK", client.call(method, **fields).msg
            except grpc.RpcError as error:
                return error.code().name, error.details()

    return ask
