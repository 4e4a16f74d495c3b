"""What managing models does and says, whichever protocol asks for it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from model_server.api.descriptions import describe_version
from model_server.errors import BadRequest, ServerError
from model_server.metrics.gpus import GpuReading, RecentGpus
from model_server.serving.jobs import InferenceRequest
from model_server.serving.model import Model
from model_server.serving.registry import RegisterRequest, Registry
from model_server.serving.streams import Stream

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_RUNTIMES = ("python", "python3", "LSP")
_MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class Outcome:
    """TorchServe's text about a change. `is_complete`: false while workers are still being started or stopped."""

    text: str
    is_complete: bool = True


_UNDER_WAY = Outcome("Processing worker updates...", is_complete=False)


class ModelManagement:
    """The operations of the management APIs, with their texts.

    The state here is `_running`: what changes models runs to its end even when the client goes away meanwhile.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._gpus = RecentGpus()
        self._running: set[asyncio.Task[Any]] = set()

    # --- changes ---

    async def register(self, request: RegisterRequest) -> Outcome:
        return await self._to_the_end(self._register(request))

    async def scale(
        self, name: str, version: str | None, min_workers: int, max_workers: int, *, synchronous: bool
    ) -> Outcome:
        """Raises `BadRequest` for numbers that make no sense, and what `Registry.scale` raises."""
        if max_workers < min_workers:
            raise BadRequest("max_worker cannot be less than min_worker.")
        if min_workers < 0:
            raise BadRequest(f"min_worker must be 0 or more, not {min_workers}.")
        await self._to_the_end(self._registry.scale(name, version, min_workers, max_workers, synchronous=synchronous))
        if not synchronous:
            return _UNDER_WAY
        suffix = f", version: {version}" if version else ""
        return Outcome(f"Workers scaled to {min_workers} for model: {name}{suffix}")

    def set_default(self, name: str, version: str) -> Outcome:
        self._registry.set_default(name, version)
        return Outcome(f'Default version successfully updated for model "{name}" to "{version}"')

    async def unregister(self, name: str, version: str | None) -> Outcome:
        await self._to_the_end(self._registry.unregister(name, version))
        return Outcome(f'Model "{name}" unregistered')

    async def _register(self, request: RegisterRequest) -> Outcome:
        model = await self._registry.register(request)
        name, version, workers = model.identity.name, model.identity.version, model.settings.min_workers
        registered = f'Model "{name}" Version: {version} registered with {workers} initial workers'
        if not workers:
            return Outcome(f"{registered}. Use scale workers API to add workers for the model.")
        return Outcome(registered) if request.synchronous else _UNDER_WAY

    async def _to_the_end(self, change: Coroutine[Any, Any, _T]) -> _T:
        task = asyncio.ensure_future(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    # --- reading ---

    def list_models(self, limit: int, start: int) -> dict[str, Any]:
        """One page of the registered names; a limit that is out of range is the largest one."""
        if not 0 <= limit <= _MAX_PAGE:
            limit = _MAX_PAGE
        start = max(0, start)
        models = self._registry.default_models()
        document: dict[str, Any] = {}
        if start + limit <= len(models):
            document["nextPageToken"] = str(start + limit)
        document["models"] = [
            {"modelName": model.identity.name, "modelUrl": model.identity.url}
            for model in models[start : start + limit]
        ]
        return document

    async def describe(self, name: str, version: str | None) -> list[dict[str, Any]]:
        """The named version, the default one, or `all` of them."""
        models = self._registry.versions(name) if version == "all" else [self._registry.get(name, version)]
        readings = await self._gpu_readings(models)
        return [describe_version(model, readings) for model in models]

    async def describe_customized(self, name: str, version: str | None, request_id: str) -> list[dict[str, Any]]:
        """With what the handler's `describe_handle` says of itself, where it says something."""
        model = self._registry.get(name, version)
        document = describe_version(model, await self._gpu_readings([model]))
        metadata = await _customized(model, request_id)
        if metadata is not None:
            document["customizedMetadata"] = _without_nulls(metadata)
        return [document]

    async def _gpu_readings(self, models: Sequence[Model]) -> Sequence[GpuReading]:
        uses_gpus = any(replica.plan.assignment.gpus for model in models for replica in model.replicas)
        return await self._gpus.read() if uses_gpus else []


def check_runtime(runtime: str | None) -> None:
    """TorchServe looks at it before anything else of a registration."""
    if runtime is not None and runtime not in _RUNTIMES:
        raise BadRequest(f"Invalid RuntimeType value: {runtime}")


async def _customized(model: Model, request_id: str) -> dict[str, Any] | None:
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
