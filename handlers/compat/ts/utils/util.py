"""`ts.utils.util`."""

from handlers.deprecation import deprecated
from handlers.errors import PredictionException
from handlers.labels import load_label_mapping, map_class_to_label
from handlers.markup import CLEANUP_REGEX
from handlers.modules import classes_defined_in as list_classes_from_module
from handlers.pt2_backend import PT2Backend, check_valid_pt2_backend
from handlers.yaml_config import get_yaml_config

__all__ = [
    "CLEANUP_REGEX",
    "PT2Backend",
    "PredictionException",
    "check_valid_pt2_backend",
    "deprecated",
    "get_yaml_config",
    "list_classes_from_module",
    "load_label_mapping",
    "map_class_to_label",
]
