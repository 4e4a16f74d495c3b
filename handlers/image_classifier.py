"""`image_classifier`: the most probable classes of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from handlers.image_transforms import IMAGENET_TRANSFORM
from handlers.labels import map_class_to_label
from handlers.timing import timed
from handlers.vision import VisionHandler


class ImageClassifier(VisionHandler):
    """For models that give one score per class, [requests, classes], on images of 224 x 224 pixels.

    Attributes:
        topk: how many classes an answer names; all of them when the model has fewer.
    """

    topk = 5
    image_processing: Callable[[Any], torch.Tensor] = IMAGENET_TRANSFORM

    def set_max_result_classes(self, topk: int) -> None:
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """`{label: probability}` for each request, most probable class first."""
        probabilities, classes = data.softmax(dim=1).topk(min(self.topk, data.shape[1]), dim=1)
        return map_class_to_label(probabilities.tolist(), self.mapping, classes.tolist())
