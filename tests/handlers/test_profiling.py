"""ENABLE_TORCH_PROFILER: traces, log lines and the names of the steps."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity

from handlers.base import BaseHandler
from handlers.testing import HandlerHarness

MANIFEST = {"model": {"modelName": "doubler"}}


class Doubler(BaseHandler):
    """Skips super().__init__(), as handlers in the wild do."""

    def __init__(self) -> None:
        self.device = None

    def initialize(self, context: Any) -> None:
        self.model = lambda rows: rows * 2

    def preprocess(self, data: Any) -> Any:
        return torch.tensor([row["body"] for row in data])

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> list[Any]:
        return ["because"]

    def describe_handle(self) -> Any:
        return {"does": "double"}


class WithArguments(Doubler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.profiler_args = {"activities": [ProfilerActivity.CPU], "on_trace_ready": self.seen.append}


@pytest.fixture(autouse=True)
def profiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "TRUE")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caplog.set_level(logging.INFO)


def step_names(trace: Path) -> set[str]:
    events = json.loads(trace.read_bytes())["traceEvents"]
    return {event["name"] for event in events} & {"preprocess", "inference", "postprocess", "explain"}


def test_a_trace_is_written_and_the_answer_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = HandlerHarness(Doubler, tmp_path, manifest=MANIFEST)
    assert started.predict_batch([1, 2]) == [2, 4]
    (trace,) = (tmp_path / "pytorch_profiler" / "doubler").iterdir()
    assert step_names(trace) == {"preprocess", "inference", "postprocess"}
    assert f"Saving chrome trace to : {tmp_path / 'pytorch_profiler' / 'doubler'}" in caplog.text
    assert "aten::mul" in caplog.text
    assert started.handler.manifest == MANIFEST
    assert [sample.name for sample in started.metrics] == ["HandlerTime"]


def test_explanations_have_a_step_of_their_own(tmp_path: Path) -> None:
    started = HandlerHarness(Doubler, tmp_path, manifest=MANIFEST)
    assert started.explain(1) == "because"
    (trace,) = (tmp_path / "pytorch_profiler" / "doubler").iterdir()
    assert step_names(trace) == {"preprocess", "explain"}


def test_describe_is_not_profiled(tmp_path: Path) -> None:
    assert HandlerHarness(Doubler, tmp_path, manifest=MANIFEST).describe() == {"does": "double"}
    assert not (tmp_path / "pytorch_profiler").exists()


def test_the_handler_chooses_the_profilers_arguments(tmp_path: Path) -> None:
    started = HandlerHarness(WithArguments, tmp_path, manifest=MANIFEST)
    assert started.predict(3) == 6
    (profiler,) = started.handler.seen
    assert profiler.activities == {ProfilerActivity.CPU}
    assert not (tmp_path / "pytorch_profiler").exists()


def test_the_profiler_is_handed_out(tmp_path: Path) -> None:
    handler = HandlerHarness(WithArguments, tmp_path, manifest=MANIFEST).handler
    handler.manifest = None
    answers, profiler = handler._infer_with_profiler([{"body": 4}])
    assert answers == [8]
    assert "inference" in {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize("value", ["", None])
def test_without_the_variable_nothing_is_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("ENABLE_TORCH_PROFILER")
    if value is not None:
        monkeypatch.setenv("ENABLE_TORCH_PROFILER", value)
    assert HandlerHarness(Doubler, tmp_path, manifest=MANIFEST).predict(1) == 2
    assert not (tmp_path / "pytorch_profiler").exists()
