"""TorchServe's inference API: predictions, explanations, health."""

from __future__ import annotations

from aiohttp import web

from model_server.api.bodies import client_headers, query_parts, read_parts
from model_server.api.openapi import model_description
from model_server.api.problems import bare_response, error_response, status_response
from model_server.api.sites import REQUEST_ID
from model_server.api.streaming import stream_response
from model_server.errors import BadRequest, HandlerFailed, MethodNotAllowed
from model_server.serving.jobs import InferenceRequest
from model_server.serving.registry import Registry
from model_server.serving.streams import Stream
from model_server.wire.messages import Headers, ItemResult, Part, RequestKind


class InferenceApi:
    """Routes of the inference port. The HTTP method does not matter, except OPTIONS: `curl -T` predicts with PUT."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def route(self, request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        match segments:
            case []:
                raise MethodNotAllowed
            case ["ping", *_]:
                return self._ping()
            case ["predictions", name, *rest]:
                return await self._predict(request, name, "predict", rest)
            case ["explanations", name, *rest]:
                return await self._predict(request, name, "explain", rest)
            case ["invocations"]:
                return await self._invoke(request, None)
            case ["models", name, "invoke"] | [name, "predict"]:
                return await self._invoke(request, name)
            case [name, version, "predict"]:
                return await self._invoke(request, name, version)
            case ["v1", "models", call] if call.endswith((":predict", ":explain")):
                name, _, verb = call.partition(":")
                return await self._predict(request, name, "explain" if verb == "explain" else "predict")
            case ["v2", "models", name, "infer" | "explain" as verb]:
                return await self._predict(request, name, "explain" if verb == "explain" else "predict")
        return None

    def _ping(self) -> web.Response:
        return status_response("Healthy") if self._registry.is_healthy else status_response("Unhealthy", 500)

    async def _predict(
        self, request: web.Request, name: str, kind: RequestKind, rest: list[str] | None = None
    ) -> web.StreamResponse:
        """`rest` holds the segments after the name: a version, then whatever the handler gets as `url_path`."""
        version = rest[0] if rest else None
        if request.method == "OPTIONS":
            return model_description(self._registry.get(name, version))
        self._registry.get(name, version)  # an unknown model is told before its body is read
        headers: Headers = [("explain", "True" if kind == "explain" else "False")]
        if rest is not None:
            headers.append(("url_path", "/".join(rest[1:])))
        return await self._run(request, name, version, kind, headers, await read_parts(request))

    async def _invoke(self, request: web.Request, name: str | None, version: str | None = None) -> web.StreamResponse:
        """The routes whose query parameters reach the handler, and on which a request may name its model."""
        if name is not None:
            model = self._registry.get(name, version)
            if request.method == "OPTIONS":
                return model_description(model)
        parts = [*query_parts(request), *await read_parts(request)]
        name = name or self._named_model(request, parts)
        return await self._run(request, name, version, "predict", [], parts)

    def _named_model(self, request: web.Request, parts: list[Part]) -> str:
        startup = self._registry.startup_models
        if named := request.query.get("model_name"):
            return named
        if len(startup) == 1:
            return startup[0]
        for part in parts:
            if part.name == "model_name":
                return bytes(part.data).decode(errors="replace")
        raise BadRequest("Parameter model_name is required.")

    async def _run(
        self,
        request: web.Request,
        name: str,
        version: str | None,
        kind: RequestKind,
        headers: Headers,
        parts: list[Part],
    ) -> web.StreamResponse:
        inference = InferenceRequest(request[REQUEST_ID], kind, client_headers(request) + headers, parts, version)
        # Looked up again: reading the body took time, and the model may have been replaced meanwhile.
        answer = await self._registry.get(name, version).predict(inference)
        return await stream_response(request, answer) if isinstance(answer, Stream) else answer_response(answer)


def answer_response(answer: ItemResult) -> web.Response:
    """A worker's answer as it is, or the error it decided on."""
    if answer.error is not None:
        return error_response(HandlerFailed(answer.error, status=answer.status))
    return bare_response(answer.body, answer.status, answer.reason, answer.headers)
