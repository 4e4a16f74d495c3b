"""What this installation can do, under the names that handlers ask TorchServe's base handler for."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Part of every torch that this project runs with.
PROFILER_AVAILABLE = True
PT2_AVAILABLE = True
PT230_AVAILABLE = True

XLA_AVAILABLE = find_spec("torch_xla") is not None
ONNX_AVAILABLE = find_spec("onnxruntime") is not None
IPEX_AVAILABLE = os.environ.get("TS_IPEX_ENABLE") == "true" and find_spec("intel_extension_for_pytorch") is not None
