"""`image_segmenter`: the class of every pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from handlers.image_transforms import IMAGENET_TRANSFORM
from handlers.timing import timed
from handlers.vision import VisionHandler


class ImageSegmenter(VisionHandler):
    """For models that give a dict with `out`, scores [requests, classes, height, width], as torchvision's do."""

    image_processing: Callable[[Any], torch.Tensor] = IMAGENET_TRANSFORM

    @timed
    def postprocess(self, data: dict[str, torch.Tensor]) -> list[Any]:
        """For each request, [height][width] pairs: the most probable class, as a float, and its probability."""
        probabilities, classes = data["out"].softmax(dim=1).max(dim=1)
        pairs: list[Any] = torch.stack([classes.to(probabilities.dtype), probabilities], dim=-1).tolist()
        return pairs
