"""What probes are told while models load, fail, are scaled and are added."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from servers import Servers

from model_server.api.health import HealthApi


@dataclass
class AModel:
    """The parts of `serving.model.Model` that readiness looks at."""

    name: str
    state: str = "READY"
    is_healthy: bool = True
    loaded_at_startup: bool = True
    min_workers: int = 1
    identity: Any = field(init=False)
    settings: Any = field(init=False)

    def __post_init__(self) -> None:
        self.identity = SimpleNamespace(
            name=self.name, url=f"{self.name}.mar", loaded_at_startup=self.loaded_at_startup
        )
        self.settings = SimpleNamespace(min_workers=self.min_workers)

    @property
    def is_ready(self) -> bool:
        return self.state == "READY"


class Models(list[AModel]):
    def default_models(self) -> list[AModel]:
        return self


def ready(*models: AModel, refused: list[str] | None = None, is_started: bool = True) -> tuple[int, Any]:
    registry: Any = Models(models)
    health = HealthApi(registry)
    if is_started:
        health.started(refused or [])
    response = asyncio.run(health.route(make_mocked_request("GET", "/ready"), ["ready"]))
    assert isinstance(response, web.Response) and isinstance(response.body, bytes)
    return response.status, json.loads(response.body)


READY = (200, {"status": "Ready"})


def not_ready(**states: str) -> tuple[int, Any]:
    return 503, {"status": "Not ready", "models": [{"modelName": name, "state": states[name]} for name in states]}


def test_a_server_without_models_is_ready() -> None:
    assert ready() == READY


def test_not_before_all_models_are_registered() -> None:
    assert ready(is_started=False) == not_ready()
    assert ready(AModel("a"), is_started=False) == not_ready()


@pytest.mark.parametrize("state", ["LOADING", "FAILED", "DEGRADED"])
def test_models_of_the_start_are_waited_for_by_name(state: str) -> None:
    assert ready(AModel("a"), AModel("b", state), AModel("c", "FAILED")) == not_ready(b=state, c="FAILED")


def test_a_model_without_workers_is_meant_so() -> None:
    assert ready(AModel("a", "STOPPED", min_workers=0)) == READY


def test_a_model_that_is_added_later_disturbs_nobody_while_it_loads() -> None:
    assert ready(AModel("a", "LOADING", loaded_at_startup=False)) == READY
    assert ready(AModel("a", "DEGRADED", is_healthy=False, loaded_at_startup=False)) == not_ready(a="DEGRADED")


def test_a_model_that_could_not_be_registered_is_missed_until_it_is() -> None:
    assert ready(AModel("a"), refused=["b.mar", "c"]) == not_ready(**{"b.mar": "FAILED", "c": "FAILED"})
    assert ready(AModel("b"), AModel("c"), refused=["b.mar", "c"]) == READY


def test_a_real_server_whose_model_cannot_be_read(servers: Servers) -> None:
    servers.archives.folder.mkdir()
    (servers.archives.folder / "bad.mar").write_text("no archive")
    server = servers.start(["bad.mar"])
    for ask in (server.infer, server.manage):
        answer = ask("GET", "ready")
        assert (answer.status_code, answer.json()) == not_ready(**{"bad.mar": "FAILED"})
        assert ask("GET", "live").json() == {"status": "Live"}
