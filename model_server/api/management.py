"""TorchServe's management API: register, scale, describe, unregister, set the default."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from model_server.api.model_management import ModelManagement, Outcome, check_runtime
from model_server.api.openapi import management_description
from model_server.api.paths import query_values
from model_server.api.problems import json_response, status_response
from model_server.api.sites import REQUEST_ID
from model_server.config.lenient_json import parse_object
from model_server.config.resolve import RegisterOverrides
from model_server.config.server import ServerConfig
from model_server.errors import BadRequest, MethodNotAllowed, ServerError
from model_server.serving.registry import RegisterRequest, Registry

log = logging.getLogger(__name__)

_INT_RANGE = range(-(2**31), 2**31)
_INTEGER = re.compile("[+-]?[0-9]{1,10}")
# Junk in one of these is ignored in a query; in a JSON body it is an error.
_NUMBERS = {"initial_workers", "batch_size", "max_batch_delay", "response_timeout", "startup_timeout"}


class ManagementApi:
    """Routes of the management port."""

    def __init__(self, registry: Registry, models: ModelManagement, config: ServerConfig) -> None:
        self._registry = registry
        self._models = models
        self._config = config

    async def route(self, request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        match segments:
            case []:
                raise MethodNotAllowed
            case ["models"]:
                return await self._all_models(request)
            case ["models", name, version, "set-default"] if request.method == "PUT":
                return _changed(self._models.set_default(name, version))
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

    async def _all_models(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            parameters = _query(request)
            limit, start = _integer(parameters, "limit", -1), _integer(parameters, "next_page_token", 0)
            return json_response(self._models.list_models(limit, start))
        if request.method == "POST" and self._config.enable_model_api:
            return _changed(await self._models.register(_register_request(await _parameters(request))))
        raise MethodNotAllowed

    async def _model(self, request: web.Request, name: str, version: str | None) -> web.StreamResponse:
        if request.method == "GET":
            return await self._describe(request, name, version)
        if request.method == "PUT":
            return _changed(await self._scale(_query(request), name, version))
        if request.method == "DELETE" and self._config.enable_model_api:
            return _changed(await self._models.unregister(name, version))
        if request.method == "OPTIONS":
            has_tokens = not self._config.disable_token_authorization
            return management_description(self._registry.get(name, version), has_tokens=has_tokens)
        raise MethodNotAllowed

    async def _scale(self, parameters: Mapping[str, str], name: str, version: str | None) -> Outcome:
        min_workers = _integer(parameters, "min_worker", 1)
        return await self._models.scale(
            name,
            version or parameters.get("model_version"),
            min_workers,
            _integer(parameters, "max_worker", min_workers),
            synchronous=parameters.get("synchronous", "false").lower() == "true",
        )

    async def _describe(self, request: web.Request, name: str, version: str | None) -> web.Response:
        if version == "set-default":
            version = None
        if version != "all" and _query(request).get("customized", "").lower() == "true":
            customized = await self._models.describe_customized(name, version, request[REQUEST_ID])
            return json_response(customized, reason="")
        return json_response(await self._models.describe(name, version))


def _changed(outcome: Outcome) -> web.Response:
    return status_response(outcome.text, 200 if outcome.is_complete else 202)


def _register_request(parameters: Mapping[str, str]) -> RegisterRequest:
    check_runtime(parameters.get("runtime"))
    if "url" not in parameters:
        raise BadRequest("Parameter url is required.")
    overrides = RegisterOverrides(
        initial_workers=_integer(parameters, "initial_workers"),
        batch_size=_integer(parameters, "batch_size"),
        max_batch_delay_ms=_integer(parameters, "max_batch_delay"),
        response_timeout_s=_integer(parameters, "response_timeout"),
        startup_timeout_s=_integer(parameters, "startup_timeout"),
        runtime=parameters.get("runtime"),
    )
    return RegisterRequest(
        url=parameters["url"],
        model_name=parameters.get("model_name") or None,
        handler=parameters.get("handler") or None,
        overrides=overrides,
        synchronous=parameters.get("synchronous", "true").lower() == "true",
        s3_sse_kms=parameters.get("s3_sse_kms", "false").lower() == "true",
    )


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
