"""`ts.torch_handler.dali_image_classifier`."""

from handlers.not_yet import DaliImageClassifier as DALIImageClassifier

__all__ = ["DALIImageClassifier"]
