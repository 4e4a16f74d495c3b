"""The Open Inference service in TorchServe's package. Handlers see and give the protocol's JSON (kservev2 envelope)."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from model_server.api.grpc import messages
from model_server.api.grpc.failures import CallFailed, Failure, inference_failure, management_failure
from model_server.api.health import HealthApi
from model_server.errors import BadRequest, HandlerFailed, ModelNotFound, ModelVersionNotFound, ServerError
from model_server.serving.jobs import InferenceRequest
from model_server.serving.registry import Registry
from model_server.serving.streams import Stream
from model_server.wire.messages import Part

# Datatype -> field of InferTensorContents.
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_ServerLive = messages.message_class(f"{messages.OPEN_INFERENCE}.ServerLiveResponse")
_ServerReady = messages.message_class(f"{messages.OPEN_INFERENCE}.ServerReadyResponse")
_ModelReady = messages.message_class(f"{messages.OPEN_INFERENCE}.ModelReadyResponse")
_ModelMetadata = messages.message_class(f"{messages.OPEN_INFERENCE}.ModelMetadataResponse")
_ModelInfer = messages.message_class(f"{messages.OPEN_INFERENCE}.ModelInferResponse")


class OpenInferenceService:
    name = f"{messages.OPEN_INFERENCE}.GRPCInferenceService"

    def __init__(self, registry: Registry, health: HealthApi) -> None:
        self._registry = registry
        self._health = health

    @property
    def methods(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }

    def failure(self, error: ServerError) -> Failure:
        return inference_failure(error)

    async def server_live(self, request: Any) -> Any:
        return _ServerLive(live=True)

    async def server_ready(self, request: Any) -> Any:
        return _ServerReady(ready=self._health.is_ready)

    async def model_ready(self, request: Any) -> Any:
        self._demand(request, "Parameter name is required.")
        return _ModelReady(ready=self._registry.get(request.name, request.version or None).is_ready)

    async def model_metadata(self, request: Any) -> Any:
        self._demand(request, "Parameter model_name is required.")
        versions = [model.identity.version for model in self._registry.versions(request.name)]
        return _ModelMetadata(name=request.name, versions=versions)

    async def model_infer(self, request: Any) -> Any:
        if not request.model_name:
            raise BadRequest("Parameter model_name is required.")
        version = request.model_version or None
        self._registry.get(request.model_name, version)  # an unknown model is told before its tensors are read
        body = await asyncio.to_thread(_request_json, request)
        parts = [Part("body", body, "application/json")]
        inference = InferenceRequest(str(uuid.uuid4()), "predict", [], parts, version)
        answer = await self._registry.get(request.model_name, version).predict(inference)
        if isinstance(answer, Stream):
            answer.abandon()
            raise ServerError("The handler answered in parts, which is no Open Inference response.")
        if answer.error is not None:
            raise HandlerFailed(answer.error, status=answer.status)
        return await asyncio.to_thread(_response, bytes(answer.body))

    def _demand(self, request: Any, text_without_name: str) -> None:
        if not request.name:
            raise BadRequest(text_without_name)
        try:
            self._registry.get(request.name, request.version or None)
        except (ModelNotFound, ModelVersionNotFound) as error:
            raise CallFailed(management_failure(error)) from error


def _request_json(request: Any) -> bytes:
    """Raises `BadRequest` for tensors that are not in a field of their own."""
    if request.raw_input_contents:
        raise BadRequest("raw_input_contents are not supported: give each input its contents.")
    inputs = [
        {
            "name": tensor.name,
            "shape": list(tensor.shape),
            "datatype": tensor.datatype,
            "data": _elements(tensor.datatype, tensor.contents),
        }
        for tensor in request.inputs
    ]
    return json.dumps({"id": request.id, "model_name": request.model_name, "inputs": inputs}).encode()


def _elements(datatype: str, contents: Any) -> list[Any]:
    values = list(getattr(contents, _field(datatype, BadRequest)))
    return [base64.b64encode(value).decode() for value in values] if datatype == "BYTES" else values


def _field(datatype: str, error: type[ServerError]) -> str:
    if datatype not in _FIELDS:
        raise error(f"The datatype {datatype[:20]!r} is not supported: use one of {', '.join(_FIELDS)}.")
    return _FIELDS[datatype]


def _response(body: bytes) -> Any:
    """Raises `ServerError` for a result that is no Open Inference response."""
    try:
        document = json.loads(body)
        return _ModelInfer(
            model_name=document["model_name"],
            model_version=document.get("model_version") or "",
            id=document.get("id") or "",
            outputs=[_output(output) for output in document["outputs"]],
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ServerError(f"The handler's result is no Open Inference response: {error!r}"[:500]) from error


def _output(output: Any) -> dict[str, Any]:
    field = _field(output["datatype"], ServerError)
    data = [str(value).encode() for value in output["data"]] if field == "bytes_contents" else output["data"]
    return {
        "name": output["name"],
        "datatype": output["datatype"],
        "shape": output["shape"],
        "contents": {field: data},
    }
