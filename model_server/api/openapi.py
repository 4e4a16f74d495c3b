"""What the server can do, as OpenAPI documents (version 3.0.1); each port describes the operations it really has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web

from model_server import __version__
from model_server.api.operations import DESCRIPTION, ERROR, MANAGEMENT, Operation
from model_server.api.problems import json_response
from model_server.api.sites import Route
from model_server.serving.model import Model

_DEFAULTS: dict[str, Any] = {"limit": 100, "batch_size": 1, "max_batch_delay": 100, "min_worker": 1}


def describe_api(operations: Iterable[Operation], *, has_tokens: bool) -> Route:
    """`OPTIONS /` and `/api-description` of a port; the document is made once."""
    known = {(each.path, each.method): each for each in (*DESCRIPTION, *operations)}
    document = _document("TorchServe APIs", __version__, known.values(), has_tokens=has_tokens)
    document["info"]["description"] = "Predictions, explanations and management of models served from archives"

    async def route(request: web.Request, segments: list[str]) -> web.StreamResponse | None:
        if segments == ["api-description"] or (not segments and request.method == "OPTIONS"):
            return json_response(document)
        return None

    return route


def model_description(model: Model) -> web.Response:
    """`OPTIONS` on one model's inference paths."""
    name = model.identity.name
    paths = (f"/predictions/{name}", f"/v1/models/{name}:predict", f"/v2/models/{name}/infer")
    operations = [
        Operation(path, "post", name, "Predict.", takes_anything=True, errors={500: "Worker died"}) for path in paths
    ]
    return json_response(_document(f"RESTful API for: {name}", "1.0.0", operations))


def management_description(model: Model, *, has_tokens: bool) -> web.Response:
    """`OPTIONS` on one model's management paths."""
    operations = [operation for operation in MANAGEMENT if operation.path.startswith("/models/{model_name}")]
    title = f"RESTful Management API for: {model.identity.name}"
    return json_response(_document(title, __version__, operations, has_tokens=has_tokens))


def _document(title: str, version: str, operations: Iterable[Operation], *, has_tokens: bool = False) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    keys = set()
    for operation in operations:
        described = paths.setdefault(operation.path, {})[operation.method] = _described(operation)
        if has_tokens and operation.key is not None:
            described["security"] = [{operation.key: []}]
            keys.add(operation.key)
    document: dict[str, Any] = {"openapi": "3.0.1", "info": {"title": title, "version": version}, "paths": paths}
    if keys:
        schemes = {
            key: {"type": "http", "scheme": "bearer", "description": f"The {key} token of the key file."}
            for key in sorted(keys)
        }
        document["components"] = {"securitySchemes": schemes}
    return document


def _described(operation: Operation) -> dict[str, Any]:
    names = [part.partition("}")[0] for part in operation.path.split("{")[1:]]
    content = {"application/json": {"schema": operation.answer}} if operation.answer else {"*/*": {"schema": {}}}
    responses: dict[str, Any] = {"200": {"description": "OK", "content": content}}
    if operation.is_delayed:
        responses["202"] = {"description": "Under way", "content": content}
    responses |= {str(status): _error(text) for status, text in sorted(operation.errors.items())}
    document: dict[str, Any] = {
        "operationId": operation.id,
        "description": operation.summary,
        "parameters": [
            *(_parameter(name, "path", "string", required=True) for name in names),
            *_query_parameters(operation),
        ],
        "responses": responses,
    }
    if operation.takes_anything:
        document["requestBody"] = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    elif operation.takes:
        document["requestBody"] = {"content": {"application/json": {"schema": operation.takes}}}
    if operation.is_deprecated:
        document["deprecated"] = True
    return document


def _query_parameters(operation: Operation) -> Iterator[dict[str, Any]]:
    for name, type_ in operation.query.items():
        yield _parameter(name, "query", type_, required=name in operation.required)


def _parameter(name: str, where: str, type_: str, *, required: bool) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": type_}
    if name in _DEFAULTS:
        schema["default"] = _DEFAULTS[name]
    if type_ == "array":
        schema["items"] = {"type": "string"}
    return {"in": where, "name": name, "required": required, "schema": schema}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": ERROR}}}
