"""Probes of an orchestrator, on every port and without a token: `/live` and `/ready`.

`/live` answers as long as the server does. `/ready` answers 200 when the server can do what it was started for, else
503 with the models that are missing. TorchServe's `/ping` is in `inference`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aiohttp import web

from model_server.api.problems import json_response, status_response
from model_server.serving.model import Model
from model_server.serving.registry import Registry


class HealthApi:
    """The state here is how the start went: which models could not be registered; None while it goes on."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._refused: list[str] | None = None

    def started(self, refused: Iterable[str]) -> None:
        """The start-up models are registered, but for those that are named here as the operator names them."""
        self._refused = list(refused)

    @property
    def is_ready(self) -> bool:
        return self._refused is not None and not any(self._missing())

    async def route(self, request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        match segments:
            case ["live"]:
                return status_response("Live")
            case ["ready"]:
                return self._ready()
        return None

    def _ready(self) -> web.Response:
        if self.is_ready:
            return status_response("Ready")
        return json_response({"status": "Not ready", "models": list(self._missing())}, 503)

    def _missing(self) -> Iterator[dict[str, str]]:
        for model in self._registry.default_models():
            if not _is_up(model):
                yield {"modelName": model.identity.name, "state": model.state}
        registered = {name for model in self._registry for name in (model.identity.name, model.identity.url)}
        for name in self._refused or ():
            if name not in registered:
                yield {"modelName": name, "state": "FAILED"}


def _is_up(model: Model) -> bool:
    if model.identity.loaded_at_startup:
        return model.is_ready or not model.settings.min_workers
    # One that is being added must not take away the requests of those that serve.
    return model.is_healthy
