"""The HTTP routes of the Open Inference Protocol that TorchServe has when `ts_open_inference_protocol` is set."""

from __future__ import annotations

from aiohttp import web

from model_server import __version__
from model_server.api.health import HealthApi
from model_server.api.problems import json_response


class OpenInferenceApi:
    def __init__(self, health: HealthApi) -> None:
        self._health = health

    async def route(self, request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        match segments:
            case ["v2"]:
                # The third key is spelled as TorchServe's clients know it.
                return json_response(
                    {"name": "Torchserve", "version": __version__, "extenstion": ["kserve", "kubeflow"]}
                )
            case ["v2", "health", "live"]:
                return json_response({"live": True})
            case ["v2", "health", "ready"]:
                ready = self._health.is_ready
                return json_response({"ready": ready}, 200 if ready else 503)
            case ["v2", "models", _, "versions", *_]:
                return json_response({"error": "Model versioning is not yet supported."}, 501)
        return None
