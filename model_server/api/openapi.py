"""What the server can do, as OpenAPI documents.

Each port describes the operations it really has; paths and operation ids are those TorchServe's generated clients use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from model_server import __version__
from model_server.api.problems import json_response
from model_server.api.sites import Route
from model_server.serving.model import Model

_ERROR_SCHEMA = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "Error code."},
        "type": {"type": "string", "description": "Error type."},
        "message": {"type": "string", "description": "Error message."},
    },
}
_STATUS_SCHEMA = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. `query`: name of a query parameter -> its schema type; `errors`: the statuses it may have."""

    path: str
    method: str
    id: str
    summary: str
    query: dict[str, str] = field(default_factory=dict)
    success: dict[str, Any] | None = None
    errors: dict[int, str] = field(default_factory=dict)
    deprecated: bool = False

    def document(self) -> dict[str, Any]:
        content = {"application/json": {"schema": self.success}} if self.success else {"*/*": {"schema": {}}}
        document: dict[str, Any] = {
            "operationId": self.id,
            "description": self.summary,
            "parameters": [*self._path_parameters(), *self._query_parameters()],
            "responses": {
                "200": {"description": "OK", "content": content},
                **{str(status): _error(text) for status, text in self.errors.items()},
            },
        }
        if self.method in ("post", "put") and self.path.startswith(("/predictions", "/explanations", "/invocations")):
            document["requestBody"] = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
        if self.deprecated:
            document["deprecated"] = True
        return document

    def _path_parameters(self) -> list[dict[str, Any]]:
        names = [part.partition("}")[0] for part in self.path.split("{")[1:]]
        return [_parameter(name, "path", "string", required=True) for name in names]

    def _query_parameters(self) -> list[dict[str, Any]]:
        return [
            _parameter(name, "query", type_, required=(name == "url"), default=_DEFAULTS.get(name))
            for name, type_ in self.query.items()
        ]


_DEFAULTS: dict[str, Any] = {"limit": 100, "batch_size": 1, "max_batch_delay": 100, "min_worker": 1}
_NOT_FOUND = {404: "Model not found"}
_SERVING_ERRORS = {404: "Model not found", 500: "Worker died", 503: "No worker, or the queue is full", 507: "No memory"}

_DESCRIPTION = [
    Operation("/", "options", "apiDescription", "Describe this API."),
    Operation("/api-description", "get", "api-description", "Describe this API.", deprecated=True),
]
INFERENCE = [
    *_DESCRIPTION,
    Operation(
        "/ping", "get", "ping", "Health of the server.", success=_STATUS_SCHEMA, errors={500: "Workers are missing"}
    ),
    *(
        Operation(path, "post", id, summary, errors=_SERVING_ERRORS)
        for path, id, summary in (
            ("/predictions/{model_name}", "predictions", "Predict with the default version."),
            ("/predictions/{model_name}/{model_version}", "version_predictions", "Predict with one version."),
            ("/explanations/{model_name}", "explanations", "Explain with the default version."),
            ("/explanations/{model_name}/{model_version}", "version_explanations", "Explain with one version."),
            ("/invocations", "invocations", "Predict; the model is named by query or form field model_name."),
            ("/models/{model_name}/invoke", "invoke", "Predict with the default version."),
            ("/v1/models/{model_name}:predict", "v1_predictions", "Predict; KServe v1 path."),
            ("/v2/models/{model_name}/infer", "v2_predictions", "Predict; KServe v2 path."),
        )
    ),
]
METRICS = [
    *_DESCRIPTION,
    Operation("/metrics", "get", "metrics", "Metrics, Prometheus text; of these names only.", {"name[]": "array"}),
]
_SCALE_QUERY = {"min_worker": "integer", "max_worker": "integer", "synchronous": "boolean"}
_REGISTER_QUERY = {
    "url": "string",
    "model_name": "string",
    "handler": "string",
    "runtime": "string",
    "batch_size": "integer",
    "max_batch_delay": "integer",
    "initial_workers": "integer",
    "synchronous": "boolean",
    "response_timeout": "integer",
    "startup_timeout": "integer",
}
MANAGEMENT = [
    *_DESCRIPTION,
    Operation(
        "/models",
        "get",
        "listModels",
        "Registered models.",
        {"limit": "integer", "next_page_token": "string"},
        {"type": "object", "required": ["models"]},
    ),
    Operation(
        "/models",
        "post",
        "registerModel",
        "Register a model.",
        _REGISTER_QUERY,
        _STATUS_SCHEMA,
        {400: "Bad archive", 404: "Archive not found", 405: "Model API disabled", 409: "Already registered"},
    ),
    *(
        operation
        for suffix, prefix in (("", ""), ("/{model_version}", "version_"))
        for operation in (
            Operation(
                f"/models/{{model_name}}{suffix}",
                "get",
                f"{prefix}describeModel",
                "Describe a model.",
                {"customized": "boolean"},
                {"type": "array", "items": {"type": "object"}},
                _NOT_FOUND,
            ),
            Operation(
                f"/models/{{model_name}}{suffix}",
                "put",
                f"{prefix}setAutoScale",
                "Set the number of workers.",
                _SCALE_QUERY,
                _STATUS_SCHEMA,
                {**_NOT_FOUND, 400: "Bad number of workers"},
            ),
            Operation(
                f"/models/{{model_name}}{suffix}",
                "delete",
                f"{prefix}unregisterModel",
                "Unregister a model.",
                success=_STATUS_SCHEMA,
                errors={**_NOT_FOUND, 403: "Default version", 405: "Model API disabled"},
            ),
        )
    ),
    Operation(
        "/models/{model_name}/{model_version}/set-default",
        "put",
        "setDefault",
        "Make a version the default one.",
        success=_STATUS_SCHEMA,
        errors=_NOT_FOUND,
    ),
]


def describe_api(operations: list[Operation]) -> Route:
    """`OPTIONS /` and `/api-description` of a port; the document is made once."""
    document = _document("TorchServe APIs", __version__, operations)
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
    operations = [Operation(path, "post", name, "Predict.", errors={500: "Worker died"}) for path in paths]
    return json_response(_document(f"RESTful API for: {name}", "1.0.0", operations))


def management_description(model: Model) -> web.Response:
    """`OPTIONS` on one model's management paths."""
    operations = [operation for operation in MANAGEMENT if operation.path.startswith("/models/{model_name}")]
    return json_response(_document(f"RESTful Management API for: {model.identity.name}", __version__, operations))


def _document(title: str, version: str, operations: list[Operation]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation.document()
    return {"openapi": "3.0.1", "info": {"title": title, "version": version}, "paths": paths}


def _parameter(name: str, where: str, type_: str, *, required: bool, default: Any = None) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": type_} | ({"default": default} if default is not None else {})
    if type_ == "array":
        schema["items"] = {"type": "string"}
    return {"in": where, "name": name, "required": required, "schema": schema}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
