"""What handlers of images have in common: reading them, and explaining a prediction by the pixels behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from handlers.base import BaseHandler
from handlers.context import Context
from handlers.errors import PredictionException
from handlers.image_transforms import Compose, to_rgb, to_tensor
from handlers.images import lift_pixel_limit, read_image, request_fields, require_pillow
from handlers.scalars import as_whole_number
from handlers.targets import target_of
from handlers.timing import timed

# TorchServe's number; a lone explanation runs this many images through the model at once.
N_STEPS = 15


class VisionHandler(BaseHandler):
    """Takes images and gives what the model gives; subclasses choose `image_processing` and `postprocess`.

    A request is an image file, that file as base64 text, or nested lists of numbers, which reach the model as they are.
    """

    image_processing: Callable[[Any], torch.Tensor] = Compose((to_rgb, to_tensor))
    """PIL image to tensor [channels, height, width]; any callable, torchvision's transforms among them."""

    def initialize(self, context: Context) -> None:
        """Loads model and labels.

        Raises:
            ModelLoadError: says which file or key is missing or wrong, or that Pillow is not installed.
        """
        require_pillow(type(self).__name__)
        super().initialize(context)
        if context.system_properties.get("limit_max_image_pixels") is False:
            lift_pixel_limit()
        self.batch_explanations = self._explains_as_built_in()

    @cached_property
    def ig(self) -> Any:
        """Captum's integrated gradients of the model."""
        from captum.attr import IntegratedGradients

        return IntegratedGradients(self.model)

    @timed
    def preprocess(self, data: Sequence[Any]) -> Any:
        """Requests to one float tensor [requests, channels, height, width] on the device.

        Raises:
            PredictionException: 400 for a request that holds no image.
        """
        return torch.stack(self._images(data)).to(self._device())

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """For each request, nested lists [channels][height][width]: how much each value speaks for the target.

        Raises:
            PredictionException: 400 for a target that is no class of the model, 501 when the model has no classes.
        """
        if not self.batch_explanations:
            return super().explain_handle(data_preprocess, raw_data)
        classes = self._count_classes(data_preprocess)
        targets = [_class_below(classes, target_of(request_fields(row))) for row in raw_data]
        return self.get_insights(data_preprocess, raw_data, targets)

    def get_insights(self, tensor_data: torch.Tensor, _: Any, target: Any = 0) -> list[Any]:
        """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) against an all-zero image.

        Args:
            tensor_data: float [requests, channels, height, width].
            target: a class for all requests, or a list with one for each.
        """
        at_once = max(N_STEPS, len(tensor_data))
        attributions = self.ig.attribute(tensor_data, target=target, n_steps=N_STEPS, internal_batch_size=at_once)
        insights: list[Any] = attributions.tolist()
        return insights

    def _explains_as_built_in(self) -> bool:
        # Subclasses that replace one of these were written for one request and its target.
        methods = ("explain_handle", "get_insights")
        return all(getattr(type(self), name) is getattr(VisionHandler, name) for name in methods)

    def _images(self, data: Sequence[Any]) -> list[torch.Tensor]:
        found = [read_image(row) for row in data]
        return [image if isinstance(image, torch.Tensor) else self.image_processing(image) for image in found]

    def _count_classes(self, images: torch.Tensor) -> int:
        # Asked of the model before Captum is: an index out of range ends a CUDA context, and with it the worker.
        output = self.inference(images)
        if not isinstance(output, torch.Tensor) or output.dim() != 2:
            raise PredictionException(
                f"{type(self).__name__} cannot explain this model: its output is not one score per class", 501
            )
        return output.shape[1]


def _class_below(classes: int, target: object) -> int:
    try:
        return as_whole_number(target, 0, classes - 1)
    except ValueError as error:
        raise PredictionException(f"target: {error}", 400) from error
