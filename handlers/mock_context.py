"""`MockContext`: the context that tests of TorchServe handlers are written with. New tests: `handlers.testing`."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from handlers.metrics_store import MetricsStore
from handlers.yaml_config import get_yaml_config


class MockContext:
    """As much of a context as a handler needs to load a model and to answer a batch.

    Args:
        model_pt_file: file with the weights, or None.
        model_dir: folder with the model's files.
        model_file: Python file with the model's class, or None.
        gpu_id: device, used where there is CUDA.
        model_name: name of the model.
        model_yaml_config_file: a file in `model_dir`.

    Attributes:
        explain: set it to True to have `get_request_header` answer True for every request but the first. That one
            stays a prediction, which tests made for TorchServe count on.
    """

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str | Path = ".",
        model_file: str | None = "model.py",
        gpu_id: str | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        import torch

        files = {"serializedFile": model_pt_file, "modelFile": model_file}
        self.manifest: dict[str, Any] = {"model": {key: name for key, name in files.items() if name}}
        self.manifest["model"]["modelName"] = model_name
        self.system_properties: dict[str, Any] = {"model_dir": str(model_dir)}
        if torch.cuda.is_available() and gpu_id is not None:
            self.system_properties["gpu_id"] = gpu_id
        self.model_name = model_name
        self.explain = False
        self.metrics = MetricsStore(str(uuid.uuid4()), model_name)
        self.model_yaml_config: Any = {}
        if model_yaml_config_file:
            self.model_yaml_config = get_yaml_config(Path(model_dir) / model_yaml_config_file)

    def get_request_header(self, idx: int, key: str) -> bool:
        return bool(idx and self.explain)
