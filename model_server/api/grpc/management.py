"""TorchServe's management service."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from model_server.api.grpc import messages
from model_server.api.grpc.failures import CallFailed, Failure, inference_failure, management_failure
from model_server.api.grpc.messages import ManagementResponse
from model_server.api.model_management import ModelManagement, check_runtime
from model_server.api.problems import json_text
from model_server.config.resolve import RegisterOverrides
from model_server.config.server import ServerConfig
from model_server.errors import BadRequest, MethodNotAllowed, ServerError
from model_server.serving.registry import RegisterRequest


class ManagementService:
    """Messages have no way to say that a field is absent: 0 and less, and empty texts, count as that."""

    name = f"{messages.MANAGEMENT}.ManagementAPIsService"

    def __init__(self, models: ModelManagement, config: ServerConfig) -> None:
        self._models = models
        self._config = config

    @property
    def methods(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        return {
            "DescribeModel": self.describe_model,
            "ListModels": self.list_models,
            "RegisterModel": self.register_model,
            "ScaleWorker": self.scale_worker,
            "SetDefault": self.set_default,
            "UnregisterModel": self.unregister_model,
        }

    def failure(self, error: ServerError) -> Failure:
        return management_failure(error)

    async def describe_model(self, request: messages.DescribeModelRequest) -> Any:
        name, version = request.model_name, request.model_version or None
        if not request.customized or version == "all":
            return ManagementResponse(msg=json_text(await self._models.describe(name, version)))
        try:
            description = await self._models.describe_customized(name, version, str(uuid.uuid4()))
        except ServerError as error:
            # It is a request to the handler, and fails like one.
            raise CallFailed(inference_failure(error)) from error
        return ManagementResponse(msg=json_text(description))

    async def list_models(self, request: messages.ListModelsRequest) -> Any:
        return ManagementResponse(msg=json_text(self._models.list_models(request.limit, request.next_page_token)))

    async def register_model(self, request: messages.RegisterModelRequest) -> Any:
        self._demand_model_api()
        return ManagementResponse(msg=(await self._models.register(_register_request(request))).text)

    async def scale_worker(self, request: messages.ScaleWorkerRequest) -> Any:
        min_workers = _given(request.min_worker) or 1
        outcome = await self._models.scale(
            _named(request),
            request.model_version or None,
            min_workers,
            _given(request.max_worker) or min_workers,
            synchronous=request.synchronous,
        )
        return ManagementResponse(msg=outcome.text)

    async def set_default(self, request: messages.ModelVersionRequest) -> Any:
        return ManagementResponse(msg=self._models.set_default(request.model_name, request.model_version).text)

    async def unregister_model(self, request: messages.ModelVersionRequest) -> Any:
        self._demand_model_api()
        outcome = await self._models.unregister(_named(request), request.model_version or None)
        return ManagementResponse(msg=outcome.text)

    def _demand_model_api(self) -> None:
        if not self._config.enable_model_api:
            raise MethodNotAllowed


def _register_request(request: messages.RegisterModelRequest) -> RegisterRequest:
    check_runtime(request.runtime or None)
    if not request.url:
        raise BadRequest("Parameter url is required.")
    overrides = RegisterOverrides(
        initial_workers=_given(request.initial_workers),
        batch_size=_given(request.batch_size),
        max_batch_delay_ms=_given(request.max_batch_delay),
        response_timeout_s=_given(request.response_timeout),
        startup_timeout_s=_given(request.startup_timeout),
        runtime=request.runtime or None,
    )
    return RegisterRequest(
        url=request.url,
        model_name=request.model_name or None,
        handler=request.handler or None,
        overrides=overrides,
        synchronous=request.synchronous,
        s3_sse_kms=request.s3_sse_kms,
    )


def _named(request: messages.ModelVersionRequest) -> str:
    if not request.model_name:
        raise BadRequest("Parameter model_name is required.")
    return request.model_name


def _given(number: int) -> int | None:
    return number if number > 0 else None
