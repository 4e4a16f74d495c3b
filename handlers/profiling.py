"""torch's profiler around every batch, switched on by the environment variable ENABLE_TORCH_PROFILER."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

log = logging.getLogger(__name__)

_ROWS_SHOWN = 10


def is_profiling_requested() -> bool:
    """Any text but the empty one counts."""
    return bool(os.environ.get("ENABLE_TORCH_PROFILER"))


@contextmanager
def profile(profiler_args: Mapping[str, Any], model_name: str) -> Iterator[torch.profiler.profile]:
    """Profiles the block, writes a trace, logs the operators that took most CPU time.

    Args:
        profiler_args: arguments of `torch.profiler.profile`; without any, CPU and CUDA with the shapes of inputs.
            Traces go to `pytorch_profiler/<model_name>` in the folder for temporary files unless `on_trace_ready` says
            otherwise.
    """
    arguments = dict(profiler_args) or {"activities": _activities(), "record_shapes": True}
    if "on_trace_ready" not in arguments:
        folder = Path(tempfile.gettempdir(), "pytorch_profiler", model_name)
        arguments["on_trace_ready"] = torch.profiler.tensorboard_trace_handler(str(folder))
        log.info("Saving chrome trace to : %s", folder)
    with torch.profiler.profile(**arguments) as profiler:
        yield profiler
    log.info("%s", profiler.key_averages().table(sort_by="cpu_time_total", row_limit=_ROWS_SHOWN))


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
