"""Runs a handler without a server, with the same requests, context and metrics that a worker would give it.

harness = HandlerHarness("my_handler.py", model_dir="build/", config={"handler": {"max_length": 64}})
assert harness.predict("some text") == "Accepted"
assert harness.predict({"text": "some text"}) == "Accepted"          # a dict travels as application/json
print(harness.explain({"text": "some text", "target": 1})["importances"])
print(harness.metrics[-1].name, harness.context.get_response_headers(0))
assert harness.predict("tell me a story") == "" and harness.chunks[0] == (0, "Once")    # a handler that streams
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from handlers import compat
from handlers.builtin import BUILTIN_HANDLERS, REGISTERED_HANDLERS
from handlers.context import Context, RequestProcessor
from handlers.errors import ModelLoadError
from handlers.metrics import MetricSample, MetricsRecorder
from handlers.modules import classes_defined_in, load_module


class HandlerHarness:
    """One initialised handler and what it saw and said. TorchServe's import names (`ts.*`) work in it.

    Args:
        handler: a class, a built-in name ("transformer_handler"), or a Python file with one class or with a function
            `handle`; "file.py:name" picks one.
        model_dir: folder that holds the unpacked archive.
        config: model-config.yaml as a dict.
        manifest: MANIFEST.json as a dict; by default one that names `serialized_file`.
        serialized_file: the weights' file name within `model_dir`.
        gpu: device index; None is CPU.

    Attributes:
        handler: the instance (the module, for function handlers).
        context: the context of the latest batch.
        metrics: every sample recorded so far, oldest first.
        chunks: index in the batch and value of everything that `send_intermediate_predict_response` sent in the latest
            batch, in order.
    """

    def __init__(
        self,
        handler: type | str | Path,
        model_dir: str | Path = ".",
        config: dict[str, Any] | None = None,
        manifest: dict[str, Any] | None = None,
        serialized_file: str | None = None,
        gpu: int | None = None,
    ) -> None:
        compat.activate()
        self.metrics: list[MetricSample] = []
        self.chunks: list[tuple[int, Any]] = []
        self.context = Context(
            model_name="test",
            model_dir=Path(model_dir).resolve(),
            manifest=manifest or {"model": {"modelName": "test", "serializedFile": serialized_file}},
            batch_size=1,
            gpu=gpu,
            mms_version=compat.TORCHSERVE_VERSION,
            metrics=MetricsRecorder("test", self.metrics.append),
            model_yaml_config=config,
        )
        self.context.send_chunk = lambda index, value: self.chunks.append((index, value))
        with _importable(Path(model_dir).resolve()):
            self.handler: Any = _find_handler(handler)
            self._initialize()

    def predict(self, body: Any, content_type: str | None = None, headers: Mapping[str, str] | None = None) -> Any:
        """The answer to one request."""
        return self.predict_batch([body], content_type, headers)[0]

    def predict_batch(
        self, bodies: Sequence[Any], content_type: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """What `handle` returns for one batch, in which every request has the same content type and headers."""
        return self._handle(bodies, content_type, {**(headers or {}), "explain": "False"})

    def explain(self, body: Any, content_type: str | None = None) -> Any:
        """The explanation of one request."""
        return self.explain_batch([body], content_type)[0]

    def explain_batch(self, bodies: Sequence[Any], content_type: str | None = None) -> Any:
        return self._handle(bodies, content_type, {"explain": "True"})

    def describe(self) -> Any:
        """What the handler adds to a describe answer."""
        return self._run([{}], [{"describe": "True"}])[0]

    def _handle(self, bodies: Sequence[Any], content_type: str | None, headers: Mapping[str, str]) -> Any:
        return self._run([as_request(body, content_type) for body in bodies], [dict(headers) for _ in bodies])

    def _run(self, rows: list[dict[str, Any]], headers: list[dict[str, str]]) -> Any:
        self.context.request_ids = {index: f"request-{index}" for index in range(len(rows))}
        self.context.request_processor = [RequestProcessor(header) for header in headers]
        self.context.metrics.set_request_ids(self.context.request_ids)
        self.chunks.clear()
        answers = self.handler.handle(rows, self.context)
        return asyncio.run(_result_of(answers)) if inspect.isawaitable(answers) else answers

    def _initialize(self) -> None:
        if isinstance(self.handler, ModuleType):
            self.handler.handle(None, self.context)
        else:
            self.handler.initialize(self.context)


async def _result_of(answers: Awaitable[Any]) -> Any:
    return await answers


def as_request(body: Any, content_type: str | None = None) -> dict[str, Any]:
    """The dict a handler gets for a request with this body.

    Text and bytes arrive as a `bytearray`, as `curl -T` sends them; with a content type that starts with `text` as
    `str`; with `application/json` parsed. Anything else (dict, list, number) is taken as parsed JSON already.
    """
    raw = body.encode() if isinstance(body, str) else body
    if not isinstance(raw, bytes | bytearray):
        return {"body": json.loads(json.dumps(raw))}
    if content_type == "application/json":
        return {"body": _parsed_or_raw(raw)}
    if content_type is not None and content_type.startswith("text"):
        return {"body": raw.decode()}
    return {"body": bytearray(raw)}


def _parsed_or_raw(raw: bytes | bytearray) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return bytearray(raw)


def _find_handler(handler: type | str | Path) -> Any:
    if isinstance(handler, type):
        return handler()
    built_in = {**REGISTERED_HANDLERS, **BUILTIN_HANDLERS}.get(str(handler))
    file, _, name = (built_in or str(handler)).partition(":")
    module = importlib.import_module(file) if built_in else load_module(Path(file).resolve())
    if name:
        return _named(module, name)
    return module if hasattr(module, "handle") else _only_class(module)()


def _named(module: ModuleType, name: str) -> Any:
    found = getattr(module, name, None)
    if isinstance(found, type):
        return found()
    if not callable(found):
        raise ModelLoadError(f"{module.__name__} has no class or function {name!r}")
    renamed = ModuleType(module.__name__)
    renamed.handle = found  # type: ignore[attr-defined]
    return renamed


def _only_class(module: ModuleType) -> type:
    classes = classes_defined_in(module)
    if len(classes) != 1:
        raise ModelLoadError(f"Expected only one class in custom service code or a function entry point {classes}")
    return classes[0]


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    # A worker has the model folder on its path while it loads and afterwards; a test only wants it while it loads.
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
