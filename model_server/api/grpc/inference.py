"""TorchServe's inference service."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from model_server.api.grpc import messages
from model_server.api.grpc.calls import Send, until
from model_server.api.grpc.failures import Failure, inference_failure, stopping
from model_server.api.grpc.messages import PredictionResponse, PredictionsRequest
from model_server.api.problems import json_text
from model_server.config.server import ServerConfig
from model_server.errors import BadRequest, HandlerFailed, ServerError
from model_server.serving.jobs import Answer, InferenceRequest
from model_server.serving.registry import Registry
from model_server.serving.streams import Stream
from model_server.wire.messages import Headers, ItemResult, Part

# Requests of one call that may wait for their answers; the client's next ones wait in the connection.
_MOST_PENDING = 256


class InferenceService:
    """`stopping` is set when the server is told to stop."""

    name = f"{messages.INFERENCE}.InferenceAPIsService"

    def __init__(self, registry: Registry, config: ServerConfig, stopping: asyncio.Event) -> None:
        self._registry = registry
        self._config = config
        self._stopping = stopping

    @property
    def methods(self) -> Mapping[str, Callable[..., Awaitable[Any]]]:
        return {
            "Ping": self.ping,
            "Predictions": self.predictions,
            "StreamPredictions": self.stream_predictions,
            "StreamPredictions2": self.stream_predictions2,
        }

    def failure(self, error: ServerError) -> Failure:
        return inference_failure(error)

    async def ping(self, request: Any) -> Any:
        status = "Healthy" if self._registry.is_healthy else "Unhealthy"
        return messages.TorchServeHealthResponse(health=json_text({"status": status}))

    async def predictions(self, request: PredictionsRequest) -> Any:
        answer = await self._predict(request, [])
        body = await self._join(answer) if isinstance(answer, Stream) else answer.body
        return PredictionResponse(prediction=bytes(body))

    async def stream_predictions(self, request: PredictionsRequest, send: Send) -> None:
        """One message for each part of the answer; one message for an answer that comes whole."""
        await _send_parts(await self._predict(request, []), send)

    async def stream_predictions2(self, requests: AsyncIterator[PredictionsRequest], send: Send) -> None:
        """Asks as the requests come and answers as the answers do; an error is the answer to one request only."""
        pending = asyncio.Semaphore(_MOST_PENDING)

        async def reply(request: PredictionsRequest) -> None:
            try:
                await self._reply_in_sequence(request, send)
            finally:
                pending.release()

        async with asyncio.TaskGroup() as group:
            async for request in until(self._stopping, requests):
                await pending.acquire()
                group.create_task(reply(request))
        if self._stopping.is_set():
            raise stopping()

    async def _reply_in_sequence(self, request: PredictionsRequest, send: Send) -> None:
        try:
            if not request.sequence_id:
                raise BadRequest("Parameter sequenceId is required.")
            headers = [(self._config.sequence_headers.id, request.sequence_id)]
            await _send_parts(await self._predict(request, headers), send)
        except ServerError as error:
            await send(PredictionResponse(status=_rpc_status(inference_failure(error))))

    async def _predict(self, request: PredictionsRequest, headers: Headers) -> Answer:
        if not request.model_name:
            raise BadRequest("Parameter model_name is required.")
        version = request.model_version or None
        parts = [Part(name, value) for name, value in request.input.items()]
        inference = InferenceRequest(str(uuid.uuid4()), "predict", headers, parts, version)
        answer = await self._registry.get(request.model_name, version).predict(inference)
        if isinstance(answer, ItemResult) and answer.error is not None:
            raise HandlerFailed(answer.error, status=answer.status)
        return answer

    async def _join(self, stream: Stream) -> bytearray:
        body = bytearray()
        try:
            async for part in stream:
                body += part
                if len(body) > self._config.max_response_size_bytes:
                    raise ServerError(
                        "The answer is longer than max_response_size; StreamPredictions sends it in parts."
                    )
        finally:
            stream.abandon()
        return body


async def _send_parts(answer: Answer, send: Send) -> None:
    if isinstance(answer, ItemResult):
        await send(PredictionResponse(prediction=bytes(answer.body)))
        return
    try:
        async for part in answer:
            await send(PredictionResponse(prediction=bytes(part)))
    finally:
        answer.abandon()


def _rpc_status(failure: Failure) -> Any:
    info = messages.ErrorInfo(reason=failure.exception or "")
    type_url = f"type.googleapis.com/{info.DESCRIPTOR.full_name}"
    details = [messages.AnyMessage(type_url=type_url, value=info.SerializeToString())]
    return messages.Status(
        code=failure.code.value[0], message=failure.message.encode(errors="replace").decode(), details=details
    )
