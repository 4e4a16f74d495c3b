"""ONNX models, run by ONNX Runtime where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from handlers.errors import ModelLoadError


def setup_ort_session(model_pt_path: str, map_location: str | None) -> Any:
    """An `onnxruntime.InferenceSession` with as many threads as torch has in this worker.

    A handler asks it with `self.model.run(None, {"input": array})`.

    Args:
        model_pt_path: the `.onnx` file.
        map_location: "cuda" puts CUDA before the CPU.

    Raises:
        ModelLoadError: ONNX Runtime is not installed, or the file is no model that it can run.
    """
    name = Path(model_pt_path).name
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelLoadError(
            f"No model weights could be loaded: {name} needs ONNX Runtime: pip install 'modelserver[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    # More threads than the worker was given would fight with those of the other workers.
    options.intra_op_num_threads = torch.get_num_threads()
    providers = (
        ["CUDAExecutionProvider", "CPUExecutionProvider"] if map_location == "cuda" else ["CPUExecutionProvider"]
    )
    try:
        return onnxruntime.InferenceSession(model_pt_path, options, providers=providers)
    except Exception as error:  # its errors have no common class
        raise ModelLoadError(f"{name} cannot be loaded by ONNX Runtime: {error}") from error
