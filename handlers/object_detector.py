"""`object_detector`: what is where in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from handlers.labels import map_class_to_label
from handlers.timing import timed
from handlers.vision import VisionHandler, read_tensors


class ObjectDetector(VisionHandler):
    """For models that give, per image, a dict with `boxes` [n, 4], `labels` [n] and `scores` [n], as torchvision's do.

    Images keep their size. Images of one size reach the model as one tensor, images of several sizes as a list.

    Attributes:
        threshold: objects with a lower score are left out.
    """

    threshold = 0.5

    @timed
    def preprocess(self, data: Sequence[Any]) -> torch.Tensor | list[torch.Tensor]:
        """Requests to float images [channels, height, width], stacked where they can be.

        Raises:
            PredictionException: 400 for a request that holds no image.
        """
        images = read_tensors(data, self.image_processing)
        return torch.stack(images) if len({image.shape for image in images}) == 1 else images

    @timed
    def inference(self, data: torch.Tensor | list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        images = data.to(self.device) if isinstance(data, torch.Tensor) else [image.to(self.device) for image in data]
        with torch.inference_mode():
            return self.model(images, *args, **kwargs)

    @timed
    def postprocess(self, data: Sequence[dict[str, torch.Tensor]]) -> list[Any]:
        """For each request a list of `{label: [x1, y1, x2, y2], "score": score}` in pixels, in the model's order."""
        return [_objects(found, self.threshold, self.mapping) for found in data]


def _objects(found: dict[str, torch.Tensor], threshold: float, mapping: dict[str, str] | None) -> list[dict[str, Any]]:
    kept = found["scores"] >= threshold
    boxes, labels, scores = (found[key][kept].tolist() for key in ("boxes", "labels", "scores"))
    named = map_class_to_label([[box] for box in boxes], mapping, [[label] for label in labels])
    return [{**box, "score": score} for box, score in zip(named, scores, strict=True)]
