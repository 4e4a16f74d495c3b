"""`timed`: how long each step of a handler took, as a metric, on request."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

Handler = TypeVar("Handler")
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def timed(
    method: Callable[Concatenate[Handler, Arguments], Result],
) -> Callable[Concatenate[Handler, Arguments], Result]:
    """Emits `ts_handler_<method>` in milliseconds when model-config.yaml says `handler: {profile: true}`."""

    @wraps(method)
    def measured(self: Handler, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        metrics = _metrics_when_profiling(self)
        if metrics is None:
            return method(self, *args, **kwargs)
        start_s = _now_s()
        result = method(self, *args, **kwargs)
        metrics.add_time(f"ts_handler_{method.__name__}", (_now_s() - start_s) * 1000)
        return result

    return measured


def _metrics_when_profiling(handler: object) -> Any:
    context = getattr(handler, "context", None)
    config = getattr(handler, "model_yaml_config", None) or {}
    section = config.get("handler")
    profiling = isinstance(section, dict) and section.get("profile")
    return context.metrics if context is not None and profiling else None


def _now_s() -> float:
    # Work queued on a GPU counts for the step that queued it.
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
