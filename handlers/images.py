"""The image of a request: the bytes of a file, those bytes as base64 text, or nested lists of numbers.

Pillow is needed for files only; it is imported by whoever gets one.
"""

from __future__ import annotations

import base64
import binascii
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import ModelLoadError, PredictionException
from handlers.fields import request_fields

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow hands these to another program (Ghostscript), which nobody should be able to start with a request.
_RUN_BY_OTHER_PROGRAMS = ("EPS",)


def require_pillow(handler: str) -> None:
    """Raises ModelLoadError when Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ModelLoadError(f"{handler} needs Pillow: pip install 'modelserver[vision]'") from error


def lift_pixel_limit() -> None:
    """Lets this process open images of any size; Pillow's own limit is about 179 million pixels."""
    import PIL.Image

    PIL.Image.MAX_IMAGE_PIXELS = None


def read_image(row: Any) -> Image | torch.Tensor:
    """The image of one request, or a float32 tensor where the request holds numbers.

    Raises:
        PredictionException: 400 when there is no image, or none that can be read.
    """
    fields = request_fields(row)
    content = fields.get("data") or fields.get("body")
    if not content:
        raise PredictionException("The request holds no image: send the file as the body or as the field 'data'", 400)
    if isinstance(content, str):
        content = _decode_base64(content)
    if isinstance(content, bytes | bytearray):
        return _open(content)
    if isinstance(content, list):
        return _tensor(content)
    raise PredictionException(f"The request holds no image but a value of type {type(content).__name__}", 400)


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise PredictionException(f"The text of the request is no image in base64: {error}", 400) from error


def _open(content: bytes | bytearray) -> Image:
    import PIL.Image

    try:
        image = PIL.Image.open(BytesIO(content))
        if image.format in _RUN_BY_OTHER_PROGRAMS:
            raise PredictionException(f"{image.format} images are not accepted: send PNG or JPEG", 400)
        image.load()
    except PIL.UnidentifiedImageError as error:
        message = f"The {len(content)} bytes of the request are no image in a format that can be read"
        raise PredictionException(message, 400) from error
    except PIL.Image.DecompressionBombError as error:
        raise PredictionException(f"{error} (limit_max_image_pixels=false lifts the limit)", 400) from error
    except (PredictionException, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them to
        raise PredictionException(f"The image of the request is broken: {error}", 400) from error
    return image


def _tensor(numbers: list[Any]) -> torch.Tensor:
    try:
        return torch.tensor(numbers, dtype=torch.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        message = f"The list of the request is no image [channels][height][width] of numbers: {error}"
        raise PredictionException(message, 400) from error
