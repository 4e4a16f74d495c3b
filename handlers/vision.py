"""What handlers of images have in common: reading them, and explaining a prediction by the pixels behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch

from handlers.base import BaseHandler
from handlers.context import Context
from handlers.errors import PredictionException
from handlers.fields import index_target, request_fields, target_of
from handlers.image_transforms import Compose, to_rgb, to_tensor
from handlers.images import lift_pixel_limit, read_image, require_pillow
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
        self.batch_explanations = _explains_as_built_in(type(self))

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
        return torch.stack(read_tensors(data, self.image_processing)).to(self.device)

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """For each request, nested lists [channels][height][width]: how much each value speaks for the target.

        Raises:
            PredictionException: 400 for a target that is no class of the model, 501 when the model has no classes.
        """
        if not self.batch_explanations:
            return super().explain_handle(data_preprocess, raw_data)
        classes = _count_classes(self, data_preprocess)
        targets = [index_target(target_of(request_fields(row)), classes) for row in raw_data]
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


def read_tensors(data: Sequence[Any], image_processing: Callable[[Any], torch.Tensor]) -> list[torch.Tensor]:
    """One tensor per request: its image processed, or its numbers as they are.

    Raises:
        PredictionException: 400 for a request that holds no image.
    """
    found = [read_image(row) for row in data]
    return [image if isinstance(image, torch.Tensor) else image_processing(image) for image in found]


def _explains_as_built_in(handler: type[VisionHandler]) -> bool:
    # Subclasses that replace one of these were written for one request and its target.
    methods = ("explain_handle", "get_insights")
    return all(getattr(handler, name) is getattr(VisionHandler, name) for name in methods)


def _count_classes(handler: VisionHandler, images: torch.Tensor) -> int:
    # Asked of the model before Captum is: an index out of range ends a CUDA context, and with it the worker.
    output = handler.inference(images)
    if not isinstance(output, torch.Tensor) or output.dim() != 2:
        name = type(handler).__name__
        raise PredictionException(f"{name} cannot explain this model: its output is not one score per class", 501)
    return output.shape[1]
