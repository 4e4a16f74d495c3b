"""TorchServe's management API: register, scale, describe, unregister, set the default."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from aiohttp import web

from model_server.api.descriptions import describe_version
from model_server.api.openapi import management_description
from model_server.api.paths import query_values
from model_server.api.problems import json_response, status_response
from model_server.api.sites import REQUEST_ID
from model_server.config.lenient_json import parse_object
from model_server.config.resolve import RegisterOverrides
from model_server.config.server import ServerConfig
from model_server.errors import BadRequest, MethodNotAllowed, ServerError
from model_server.serving.jobs import InferenceRequest
from model_server.serving.model import Model
from model_server.serving.registry import RegisterRequest, Registry
from model_server.serving.streams import Stream

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_RUNTIMES = ("python", "python3", "LSP")
_MAX_PAGE = 100
_INT_RANGE = range(-(2**31), 2**31)
_INTEGER = re.compile("[+-]?[0-9]{1,10}")
# Junk in one of these is ignored in a query; in a JSON body it is an error.
_NUMBERS = {"initial_workers", "batch_size", "max_batch_delay", "response_timeout", "startup_timeout"}


class ManagementApi:
    """Routes of the management port.

    The state here is `_running`: what changes models runs to its end even when the client goes away meanwhile.
    """

    def __init__(self, registry: Registry, config: ServerConfig) -> None:
        self._registry = registry
        self._config = config
        self._running: set[asyncio.Task[Any]] = set()

    async def route(self, request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        match segments:
            case []:
                raise MethodNotAllowed
            case ["models"]:
                return await self._models(request)
            case ["models", name, version, "set-default"] if request.method == "PUT":
                self._registry.set_default(name, version)
                return status_response(f'Default version successfully updated for model "{name}" to "{version}"')
            case ["models", name]:
                return await self._model(request, name, None)
            case ["models", name, version, *_]:
                return await self._model(request, name, version)
            case ["v1", "models", name]:
                if request.method != "GET":
                    raise MethodNotAllowed
                model = self._registry.get(name)
                return json_response({"name": name, "ready": model.is_ready})
        return None

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return self._list(_query(request))
        if request.method == "POST" and self._config.enable_model_api:
            return await self._to_the_end(self._register(await _parameters(request)))
        raise MethodNotAllowed

    async def _model(self, request: web.Request, name: str, version: str | None) -> web.StreamResponse:
        if request.method == "GET":
            return await self._describe(request, name, version)
        if request.method == "PUT":
            return await self._to_the_end(self._scale(_query(request), name, version))
        if request.method == "DELETE" and self._config.enable_model_api:
            await self._to_the_end(self._registry.unregister(name, version))
            return status_response(f'Model "{name}" unregistered')
        if request.method == "OPTIONS":
            return management_description(self._registry.get(name, version))
        raise MethodNotAllowed

    async def _to_the_end(self, change: Coroutine[Any, Any, _T]) -> _T:
        task = asyncio.ensure_future(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    # --- changes ---

    async def _register(self, parameters: Mapping[str, str]) -> web.Response:
        request = self._register_request(parameters)
        model = await self._registry.register(request)
        name, version, workers = model.identity.name, model.identity.version, model.settings.min_workers
        registered = f'Model "{name}" Version: {version} registered with {workers} initial workers'
        if not workers:
            return status_response(f"{registered}. Use scale workers API to add workers for the model.")
        if not request.synchronous:
            return status_response("Processing worker updates...", 202)
        return status_response(registered)

    def _register_request(self, parameters: Mapping[str, str]) -> RegisterRequest:
        runtime = parameters.get("runtime")
        if runtime is not None and runtime not in _RUNTIMES:
            raise BadRequest(f"Invalid RuntimeType value: {runtime}")
        if "url" not in parameters:
            raise BadRequest("Parameter url is required.")
        overrides = RegisterOverrides(
            initial_workers=_integer(parameters, "initial_workers"),
            batch_size=_integer(parameters, "batch_size"),
            max_batch_delay_ms=_integer(parameters, "max_batch_delay"),
            response_timeout_s=_integer(parameters, "response_timeout"),
            startup_timeout_s=_integer(parameters, "startup_timeout"),
            runtime=runtime,
        )
        return RegisterRequest(
            url=parameters["url"],
            model_name=parameters.get("model_name") or None,
            handler=parameters.get("handler") or None,
            overrides=overrides,
            synchronous=parameters.get("synchronous", "true").lower() == "true",
        )

    async def _scale(self, parameters: Mapping[str, str], name: str, version: str | None) -> web.Response:
        version = version or parameters.get("model_version")
        min_workers = _integer(parameters, "min_worker", 1)
        max_workers = _integer(parameters, "max_worker", min_workers)
        if max_workers < min_workers:
            raise BadRequest("max_worker cannot be less than min_worker.")
        if min_workers < 0:
            raise BadRequest(f"min_worker must be 0 or more, not {min_workers}.")
        synchronous = parameters.get("synchronous", "false").lower() == "true"
        await self._registry.scale(name, version, min_workers, max_workers, synchronous=synchronous)
        if not synchronous:
            return status_response("Processing worker updates...", 202)
        suffix = f", version: {version}" if version else ""
        return status_response(f"Workers scaled to {min_workers} for model: {name}{suffix}")

    # --- reading ---

    def _list(self, parameters: Mapping[str, str]) -> web.Response:
        limit = _integer(parameters, "limit", _MAX_PAGE)
        if not 0 <= limit <= _MAX_PAGE:
            limit = _MAX_PAGE
        start = max(0, _integer(parameters, "next_page_token", 0))
        models = self._registry.default_models()
        document: dict[str, Any] = {}
        if start + limit <= len(models):
            document["nextPageToken"] = str(start + limit)
        document["models"] = [
            {"modelName": model.identity.name, "modelUrl": model.identity.url}
            for model in models[start : start + limit]
        ]
        return json_response(document)

    async def _describe(self, request: web.Request, name: str, version: str | None) -> web.Response:
        if version == "all":
            return json_response([describe_version(model) for model in self._registry.versions(name)])
        model = self._registry.get(name, None if version == "set-default" else version)
        document = describe_version(model)
        if _query(request).get("customized", "").lower() == "true":
            metadata = await self._customized(model, request[REQUEST_ID])
            if metadata is not None:
                document["customizedMetadata"] = _without_nulls(metadata)
            return json_response([document], reason="")
        return json_response([document])

    async def _customized(self, model: Model, request_id: str) -> dict[str, Any] | None:
        """What the handler's `describe_handle` says: an object, or None where it says nothing."""
        answer = await model.predict(InferenceRequest(request_id, "describe", [("describe", "True")], []))
        if isinstance(answer, Stream):
            answer.abandon()
            raise ServerError("The handler answered the describe request in parts, which is no description.")
        if answer.error is not None:
            raise ServerError(answer.error, status=answer.status)
        try:
            metadata = json.loads(bytes(answer.body) or b"null")
        except ValueError:
            metadata = []
        if metadata is None:
            return None
        if not isinstance(metadata, dict):
            log.warning("Customized metadata should be a dictionary.")
            return {}
        return metadata


def _without_nulls(value: Any) -> Any:
    """TorchServe's JSON writer leaves members that are null out of objects."""
    if isinstance(value, dict):
        return {key: _without_nulls(member) for key, member in value.items() if member is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _query(request: web.Request) -> dict[str, str]:
    """Query parameters; the first of several with one name counts."""
    values = reversed(query_values(request.rel_url.raw_query_string))
    return {name: value.decode(errors="replace") for name, value in values}


async def _parameters(request: web.Request) -> dict[str, str]:
    """Parameters of a registration: the JSON body alone when there is one, else the query."""
    if request.content_type != "application/json":
        return _query(request)
    body = await request.read()
    if not body.strip():
        raise ServerError("The JSON body is empty.")
    try:
        document = await asyncio.to_thread(parse_object, body)
    except ValueError as error:
        raise ServerError(str(error)) from error
    parameters = {str(key): _text(value) for key, value in document.items() if value is not None}
    for name in _NUMBERS & parameters.keys():
        if _parse_integer(parameters[name]) is None:
            raise ServerError(f"{name} must be a whole number, not {parameters[name][:100]!r}.")
    return parameters


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _integer(parameters: Mapping[str, str], name: str, default: Any = None) -> Any:
    """Junk counts as not given, as TorchServe's clients know it, but the log says so."""
    text = parameters.get(name)
    if text is None:
        return default
    value = _parse_integer(text)
    if value is None:
        log.warning("Parameter %s=%r is not a whole number and is ignored.", name, text[:100])
        return default
    return value


def _parse_integer(text: str) -> int | None:
    """The number, if it is one of 32 bits in plain digits; Python's own idea of a number is wider (`1_000`, ` 4`)."""
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if value in _INT_RANGE else None
