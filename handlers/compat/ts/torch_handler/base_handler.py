"""`ts.torch_handler.base_handler`."""

from handlers.base import BaseHandler
from handlers.labels import load_label_mapping
from handlers.modules import classes_defined_in as list_classes_from_module
from handlers.onnx import setup_ort_session
from handlers.pt2_backend import check_valid_pt2_backend
from handlers.torch_features import (
    IPEX_AVAILABLE,
    ONNX_AVAILABLE,
    PROFILER_AVAILABLE,
    PT2_AVAILABLE,
    PT230_AVAILABLE,
    XLA_AVAILABLE,
)

__all__ = [
    "IPEX_AVAILABLE",
    "ONNX_AVAILABLE",
    "PROFILER_AVAILABLE",
    "PT2_AVAILABLE",
    "PT230_AVAILABLE",
    "XLA_AVAILABLE",
    "BaseHandler",
    "check_valid_pt2_backend",
    "list_classes_from_module",
    "load_label_mapping",
    "setup_ort_session",
]
