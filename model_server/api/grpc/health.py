"""gRPC's own health service: of the server as a whole, and of each model by its name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from model_server.api.grpc import messages
from model_server.api.grpc.calls import Send
from model_server.api.grpc.failures import CallFailed, Failure, inference_failure, stopping
from model_server.api.grpc.messages import HealthCheckRequest, HealthCheckResponse
from model_server.api.health import HealthApi
from model_server.errors import ModelNotFound, ServerError
from model_server.serving.registry import Registry

# How often a watched state is looked at: models do not tell of their changes.
_WATCH_INTERVAL_S = 0.5

_Status = HealthCheckResponse.ServingStatus


class HealthService:
    """The whole server serves when `/ready` says so, a model when its default version answers requests."""

    name = f"{messages.HEALTH}.Health"

    def __init__(self, registry: Registry, health: HealthApi, stopping: asyncio.Event) -> None:
        self._registry = registry
        self._health = health
        self._stopping = stopping

    @property
    def methods(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        return {"Check": self.check, "Watch": self.watch}

    def failure(self, error: ServerError) -> Failure:
        return inference_failure(error)

    async def check(self, request: HealthCheckRequest) -> Any:
        try:
            return HealthCheckResponse(status=self._status(request.service))
        except ModelNotFound as error:
            raise CallFailed(Failure(grpc.StatusCode.NOT_FOUND, error.message, None)) from error

    async def watch(self, request: HealthCheckRequest, send: Send) -> None:
        last = None
        while not self._stopping.is_set():
            try:
                status = self._status(request.service)
            except ModelNotFound:
                status = _Status.SERVICE_UNKNOWN
            if status != last:
                await send(HealthCheckResponse(status=status))
                last = status
            await self._pause()
        raise stopping()

    def _status(self, service: str) -> Any:
        is_serving = self._registry.get(service).is_ready if service else self._health.is_ready
        return _Status.SERVING if is_serving else _Status.NOT_SERVING

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_WATCH_INTERVAL_S):
                await self._stopping.wait()
        except TimeoutError:
            pass
