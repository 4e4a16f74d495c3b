"""Every operation of the HTTP APIs, for the documents that describe them.

Paths, parameters and operation ids of what TorchServe has are those that clients were generated from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model_server.tokens import KeyName

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        path: with the names of its parameters in braces.
        key: whose token it needs on a server that has tokens; None: nobody's.
        query: name of a query parameter -> its schema type; `required`: those that must be there.
        answer: schema of a JSON answer; None: any content.
        takes: schema of a JSON body; `takes_anything`: what the model's handler takes.
        errors: status -> what it means.
        is_delayed: it may answer 202 and go on.
    """

    path: str
    method: str
    id: str
    summary: str
    key: KeyName | None = None
    query: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    answer: Schema | None = None
    takes: Schema | None = None
    takes_anything: bool = False
    errors: dict[int, str] = field(default_factory=dict)
    is_delayed: bool = False
    is_deprecated: bool = False


def _object(*required: str, **properties: Schema) -> Schema:
    return {"type": "object", "required": list(required or properties), "properties": properties}


_TEXT, _TRUTH = {"type": "string"}, {"type": "boolean"}
STATUS = _object(status=_TEXT)
ERROR = _object(
    code={"type": "integer", "description": "Error code."},
    type={"type": "string", "description": "Error type."},
    message={"type": "string", "description": "Error message."},
)
_MODELS = _object(
    "models",
    models={"type": "array", "items": _object(modelName=_TEXT, modelUrl=_TEXT)},
    nextPageToken={"type": "string", "description": "Where the next page begins; absent on the last."},
)
_MISSING_MODELS = _object(
    "status", status=_TEXT, models={"type": "array", "items": _object(modelName=_TEXT, state=_TEXT)}
)

_NOT_FOUND = {404: "Model not found"}
_SERVING_ERRORS = {
    **_NOT_FOUND,
    400: "The request makes no sense to the model's handler",
    413: "The body is larger than max_request_size",
    500: "The handler failed, or its worker died",
    503: "No worker, or the queue is full",
    504: "Nobody had answered in time",
    507: "No memory",
}

DESCRIPTION = (
    Operation("/", "options", "apiDescription", "Describe this API."),
    Operation("/api-description", "get", "api-description", "Describe this API.", is_deprecated=True),
)
PROBES = (
    Operation("/live", "get", "live", "Whether the server answers.", answer=STATUS),
    Operation(
        "/ready",
        "get",
        "ready",
        "Whether every model that shall serve does.",
        answer=_MISSING_MODELS,
        errors={503: "Models are missing"},
    ),
)


def _serving(path: str, id_: str, summary: str, *, method: str = "post", **options: Any) -> Operation:
    errors = {**_SERVING_ERRORS, **options.pop("errors", {})}
    takes_anything = method == "post"
    return Operation(path, method, id_, summary, "inference", takes_anything=takes_anything, errors=errors, **options)


INFERENCE = (
    Operation("/ping", "get", "ping", "Health of the server.", answer=STATUS, errors={500: "Workers are missing"}),
    *PROBES,
    _serving("/predictions/{model_name}", "predictions", "Predict with the default version."),
    _serving("/predictions/{model_name}/{model_version}", "version_predictions", "Predict with one version."),
    _serving("/explanations/{model_name}", "explanations", "Explain with the default version."),
    _serving("/explanations/{model_name}/{model_version}", "version_explanations", "Explain with one version."),
    _serving(
        "/invocations", "invocations", "Predict; a form field may name the model.", query={"model_name": "string"}
    ),
    _serving("/models/{model_name}/invoke", "invoke", "Predict with the default version."),
    _serving("/v1/models/{model_name}:predict", "v1_predictions", "Predict; path of KServe's version 1."),
    _serving("/v1/models/{model_name}:explain", "v1_explanations", "Explain; path of KServe's version 1."),
    _serving("/v2/models/{model_name}/infer", "v2_predictions", "Predict; path of KServe's version 2."),
    _serving("/v2/models/{model_name}/explain", "v2_explanations", "Explain; path of KServe's version 2."),
    _serving(
        "/{model_name}/predict",
        "legacy_predictions",
        "Predict from query parameters, with the default version.",
        method="get",
        is_deprecated=True,
    ),
    _serving(
        "/{model_name}/{model_version}/predict",
        "legacy_version_predictions",
        "Predict from query parameters, with one version.",
        method="get",
        is_deprecated=True,
    ),
)
OPEN_INFERENCE = (
    Operation(
        "/v2",
        "get",
        "v2_metadata",
        "Name and version of the server.",
        "inference",
        answer=_object("name", "version", name=_TEXT, version=_TEXT),
    ),
    Operation("/v2/health/live", "get", "v2_live", "Whether the server answers.", answer=_object(live=_TRUTH)),
    Operation(
        "/v2/health/ready",
        "get",
        "v2_ready",
        "Whether every model that shall serve does.",
        answer=_object(ready=_TRUTH),
        errors={503: "Models are missing"},
    ),
)
METRICS = (
    Operation(
        "/metrics", "get", "metrics", "Metrics, Prometheus text; of these names only.", query={"name[]": "array"}
    ),
    *PROBES,
)
_REGISTRATION = {
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
    "s3_sse_kms": "boolean",
}


def _of_a_model(path: str, prefix: str) -> tuple[Operation, ...]:
    return (
        Operation(
            path,
            "get",
            f"{prefix}describeModel",
            "Describe a model; customized: with what its handler says about it.",
            "management",
            query={"customized": "boolean"},
            answer={"type": "array", "items": {"type": "object"}},
            errors={**_NOT_FOUND, 503: "No worker to ask"},
        ),
        Operation(
            path,
            "put",
            f"{prefix}setAutoScale",
            "Set the number of workers.",
            "management",
            query={"min_worker": "integer", "max_worker": "integer", "synchronous": "boolean"},
            answer=STATUS,
            errors={**_NOT_FOUND, 400: "Bad number of workers", 500: "Workers did not start", 507: "No memory"},
            is_delayed=True,
        ),
        Operation(
            path,
            "delete",
            f"{prefix}unregisterModel",
            "Unregister a model.",
            "management",
            answer=STATUS,
            errors={**_NOT_FOUND, 403: "Default version", 405: "Model API disabled", 408: "Workers took too long"},
            is_delayed=True,
        ),
    )


MANAGEMENT = (
    *PROBES,
    Operation(
        "/models",
        "get",
        "listModels",
        "Registered models.",
        "management",
        query={"limit": "integer", "next_page_token": "string"},
        answer=_MODELS,
    ),
    Operation(
        "/models",
        "post",
        "registerModel",
        "Register a model; the parameters may also come as a JSON object.",
        "management",
        query=_REGISTRATION,
        answer=STATUS,
        takes=_object("url", **{name: {"type": type_} for name, type_ in _REGISTRATION.items()}),
        errors={
            400: "Bad archive or parameter",
            404: "Archive not found, or its URL not allowed",
            405: "Model API disabled",
            409: "Already registered",
            500: "The model did not load",
            507: "No memory",
        },
        is_delayed=True,
    ),
    *_of_a_model("/models/{model_name}", ""),
    *_of_a_model("/models/{model_name}/{model_version}", "version_"),
    Operation(
        "/models/{model_name}/{model_version}/set-default",
        "put",
        "setDefault",
        "Make a version the default one.",
        "management",
        answer=STATUS,
        errors=_NOT_FOUND,
    ),
    Operation(
        "/v1/models/{model_name}",
        "get",
        "v1_readiness",
        "Whether a model can serve; path of KServe's version 1.",
        "management",
        answer=_object(name=_TEXT, ready=_TRUTH),
        errors=_NOT_FOUND,
    ),
)
TOKENS = (
    Operation(
        "/token",
        "put",
        "renewToken",
        "Put a new token in the place of one; it stands in the key file.",
        "API",
        query={"type": "string"},
        required=("type",),
        errors={400: "Wrong key, or no such token", 500: "The key file cannot be written"},
    ),
)
