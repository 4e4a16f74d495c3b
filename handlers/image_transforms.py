"""From an image to the tensor a vision model was trained on, with the numbers that torchvision gives for a PIL image.

Handlers may use torchvision's transforms instead; these are here so that nobody has to install it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import PredictionException

if TYPE_CHECKING:
    from PIL.Image import Image

# Statistics of ImageNet's training images in RGB, as used by He et al. 2016 (arXiv:1512.03385) and by torchvision.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Compose:
    """Applies the transforms one after the other."""

    transforms: Sequence[Callable[[Any], Any]]

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


@dataclass(frozen=True, slots=True)
class Resize:
    """Makes the shorter side `size` pixels long and keeps the proportions; bilinear, with antialiasing.

    Raises:
        PredictionException: 400 for an image so long and thin that its resized form is above Pillow's limit.
    """

    size: int

    def __call__(self, image: Image) -> Image:
        import PIL.Image

        width, height = (int(self.size * side / min(image.size)) for side in image.size)
        limit = PIL.Image.MAX_IMAGE_PIXELS
        if limit is not None and width * height > limit:
            raise PredictionException(f"An image of {image.width} x {image.height} pixels is too long and thin", 400)
        if image.size == (width, height):
            return image
        return image.resize((width, height), PIL.Image.Resampling.BILINEAR)


@dataclass(frozen=True, slots=True)
class CenterCrop:
    """The square of `size` pixels in the middle of an image that is at least as large."""

    size: int

    def __call__(self, image: Image) -> Image:
        left, top = (round((side - self.size) / 2) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))


@dataclass(frozen=True, slots=True)
class Normalize:
    """`(x - mean) / std` for each channel of a float tensor [channels, height, width]."""

    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return (image - _per_channel(self.mean, image)) / _per_channel(self.std, image)


def to_rgb(image: Image) -> Image:
    """Three channels of 8 bits, whatever the file has: grey, palette, CMYK; transparency is dropped.

    Raises:
        PredictionException: 400 for more than 8 bits per channel, where it is unknown which value is white.
    """
    if image.mode.startswith(("I", "F")):
        raise PredictionException(f"Images of mode {image.mode} are not accepted: send 8 bits per channel", 400)
    return image.convert("RGB")


def to_tensor(image: Image) -> torch.Tensor:
    """An RGB image as float32 [3, height, width] within [0, 1]."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    return pixels.permute(2, 0, 1).contiguous().float().div(255)


def _per_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


IMAGENET_TRANSFORM = Compose((to_rgb, Resize(256), CenterCrop(224), to_tensor, Normalize(IMAGENET_MEAN, IMAGENET_STD)))
