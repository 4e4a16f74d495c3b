"""`BaseHandler`: the steps of TorchServe's base handler, each of them meant to be overridden.

initialize -> (preprocess -> inference -> postprocess) per batch, or preprocess -> explain_handle for explanations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import record_function

from handlers.compile import compile_callable, compile_options, uses_aot_compile
from handlers.context import Context
from handlers.device import choose_device
from handlers.errors import ModelLoadError, PredictionException
from handlers.fields import target_of
from handlers.labels import LABELS_FILE, load_label_mapping
from handlers.onnx import setup_ort_session
from handlers.profiling import is_profiling_requested, profile
from handlers.scalars import as_flag
from handlers.timing import timed
from handlers.weights import load_eager, load_exported, load_pickled_module, load_torchscript


class BaseHandler:
    """Loads the archive's model and turns batches of requests into lists of answers.

    Subclasses override steps, not `handle`. Nothing here needs `super().__init__()` to have run. Names with two
    underscores are out of the way of whatever subclasses call their own.

    Attributes:
        model: callable on what `preprocess` returns; compiled where model-config.yaml asks for it.
        mapping: index to label of index_to_name.json, or None.
        device: where the model lives; `map_location` is its kind ("cuda", "mps", "cpu").
        manifest: the archive's manifest.
        model_yaml_config: the archive's model-config.yaml.
        profiler_args: arguments of `torch.profiler.profile`, used when ENABLE_TORCH_PROFILER is set.
    """

    length_batching: bool = False
    """The worker tells the server that requests of similar body length are cheaper together."""

    batch_explanations: bool = False
    """`explain_handle` answers every request of a batch; otherwise explanations come one at a time."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, str] | None = None
        self.device: torch.device | None = None
        self.initialized = False
        self.context: Context | None = None
        self.model_pt_path: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.map_location: str | None = None
        self.explain = False
        self.target: Any = 0
        self.model_yaml_config: dict[str, Any] = {}
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Loads model and labels.

        Raises:
            ModelLoadError: says which file or key is missing or wrong.
        """
        self._adopt(context)
        self.model = self.__load_model(context)
        options = compile_options(self.model_yaml_config.get("pt2"))
        if options is not None:
            self.model = compile_callable(self.model, options)
        self.mapping = load_label_mapping(self._model_dir(context) / LABELS_FILE)
        self.initialized = True

    @timed
    def preprocess(self, data: Any) -> Any:
        """Requests to model input. By default `data` itself as a tensor on the device."""
        return torch.as_tensor(data, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the model on one batch without gradients."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        """Model output to a list with one answer per request."""
        answers: list[Any] = data.tolist()
        return answers

    def handle(self, data: Any, context: Context) -> list[Any]:
        """One batch, from requests to answers; its time goes out as the metric `HandlerTime`."""
        start_s = time.perf_counter()
        self.context = context
        answers = self.__answers(data, context)
        if context.metrics is not None:
            context.metrics.add_time("HandlerTime", round((time.perf_counter() - start_s) * 1000, 2), None, "ms")
        return answers

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explains the first request by the handler's own `get_insights(preprocessed, inputs, target)`.

        Raises:
            PredictionException: 501 when the handler has no `get_insights`.
        """
        get_insights = getattr(self, "get_insights", None)
        if get_insights is None:
            raise PredictionException(
                f"{type(self).__name__} cannot explain: it has no get_insights(preprocessed, inputs, target)",
                501,
            )
        row = raw_data[0]
        if not isinstance(row, dict):
            return get_insights(data_preprocess, row, 0)
        return get_insights(data_preprocess, row.get("data") or row.get("body"), target_of(row))

    def describe_handle(self) -> Any:
        """Metadata for `GET /models/{name}?customized=true`: a JSON object, or None for none."""
        return None

    def get_device(self) -> torch.device | None:
        return self.device

    def __answers(self, data: Any, context: Context) -> list[Any]:
        if self._is_describe():
            return [self.describe_handle()]
        if not is_profiling_requested():
            return self.__run_steps(data, nullcontext)
        if getattr(self, "manifest", None) is None:
            self.manifest = context.manifest
        return self._infer_with_profiler(data)[0]

    def _infer_with_profiler(self, data: Any) -> tuple[list[Any], torch.profiler.profile]:
        """The answers to one batch, and the profiler that watched the steps under their names."""
        model_name = (self.manifest or {}).get("model", {}).get("modelName", "")
        with profile(getattr(self, "profiler_args", {}), model_name) as profiler:
            answers = self.__run_steps(data, record_function)
        return answers, profiler

    def __run_steps(self, data: Any, mark: Callable[[str], AbstractContextManager[Any]]) -> list[Any]:
        with mark("preprocess"):
            prepared = self.preprocess(data)
        if self._is_explain():
            with mark("explain"):
                explained: list[Any] = self.explain_handle(prepared, data)
                return explained
        with mark("inference"):
            output = self.inference(prepared)
        with mark("postprocess"):
            return self.postprocess(output)

    def _is_explain(self) -> bool:
        # The server never mixes kinds in a batch, so the first request speaks for all.
        explain = bool(self.__header("explain") == "True")
        if explain:
            self.explain = True
        return explain

    def _is_describe(self) -> bool:
        return bool(self.__header("describe") == "True")

    def __header(self, key: str) -> Any:
        context = getattr(self, "context", None)
        return context.get_request_header(0, key) if context is not None else None

    def _adopt(self, context: Context) -> None:
        """Takes over what the context says about the archive and the device."""
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config or {}
        self.map_location, self.device = choose_device(context.system_properties.get("gpu_id"))

    def __load_model(self, context: Context) -> Any:
        model_dir = self._model_dir(context)
        described = (context.manifest or {}).get("model", {})
        model_file, weights = described.get("modelFile"), described.get("serializedFile")
        self.model_pt_path = str(model_dir / weights) if weights else None
        if model_file:
            # Overrides leave device and mode to us, and may choose another device.
            model = self._load_pickled_model(str(model_dir), model_file, self.model_pt_path)
            return model.to(self.__device()).eval()
        if self.model_pt_path is None:
            raise ModelLoadError("No model weights could be loaded: the archive has neither weights nor a model file")
        return self.__load_whole_model(self.model_pt_path)

    def __load_whole_model(self, model_pt_path: str) -> Any:
        """A model from a file that says itself what to compute."""
        path = Path(model_pt_path)
        if path.suffix == ".onnx":
            return setup_ort_session(model_pt_path, self.map_location)
        if path.suffix == ".pt2":
            return load_exported(path, self.__device(), self._pickle_allowed())
        if path.suffix == ".so" and self._use_torch_export_aot_compile():
            return self._load_torch_export_aot_compile(model_pt_path)
        if path.suffix == ".pt" and not self._pickle_allowed():
            return self._load_torchscript_model(model_pt_path).eval()
        if path.suffix not in (".so", ".safetensors") and self._pickle_allowed():
            return load_pickled_module(path, self.__device())
        raise ModelLoadError(
            f"No model weights could be loaded: {path.name} needs --model-file with the class it belongs to "
            "(only TorchScript named .pt, .pt2 and .onnx say themselves what to compute)"
        )

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str | None) -> nn.Module:
        weights = Path(model_pt_path) if model_pt_path else None
        return load_eager(Path(model_dir) / model_file, weights, self.__device(), self._pickle_allowed())

    def _load_torchscript_model(self, model_pt_path: str) -> nn.Module:
        return load_torchscript(Path(model_pt_path), self.__device())

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        raise ModelLoadError(
            f"{Path(model_so_path).name}: libraries compiled by AOTInductor cannot be loaded yet; "
            "save the exported program with torch.export.save as .pt2 instead"
        )

    def _use_torch_export_aot_compile(self) -> bool:
        return uses_aot_compile(self.model_yaml_config.get("pt2"))

    def _pickle_allowed(self) -> bool:
        section = self.model_yaml_config.get("handler") or {}
        try:
            return as_flag(section.get("allow_pickle", False))
        except ValueError as error:
            raise ModelLoadError(f"model-config.yaml, handler: allow_pickle: {error}") from error

    def __device(self) -> torch.device:
        return self.device or torch.device("cpu")

    @staticmethod
    def _model_dir(context: Context) -> Path:
        return Path(context.system_properties["model_dir"])
