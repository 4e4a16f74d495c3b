"""Our transforms against numbers from torchvision, which is not needed here.

The expected values come from torchvision 0.28.0 with Pillow 13.0.0: `Compose([Resize(256), CenterCrop(224), ToTensor(),
Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])])` of the images that `pattern` paints.
"""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from handlers.errors import PredictionException
from handlers.image_transforms import IMAGENET_TRANSFORM, CenterCrop, Compose, Resize, to_rgb, to_tensor


def pattern(width: int, height: int) -> Image.Image:
    def value(x: int, y: int, channel: int) -> int:
        return (x * 7 + y * 13 + channel * 101 + (x * y) // 5) % 256

    values = [value(x, y, channel) for y in range(height) for x in range(width) for channel in range(3)]
    return Image.frombytes("RGB", (width, height), bytes(values))


@pytest.mark.parametrize(
    ("size", "mean", "deviation", "probes"),
    [
        ((317, 251), 0.225665, 0.984065, (1.118675, -0.372549, 1.489673)),
        ((100, 300), 0.229126, 1.045708, (-1.518538, 1.220588, -1.037560)),
        ((256, 256), 0.226155, 1.290964, (-0.148557, 1.973389, -1.421002)),
        ((301, 455), 0.226658, 0.815639, (1.272797, 1.728291, 0.147625)),
    ],
)
def test_the_imagenet_transform_gives_torchvisions_numbers(
    size: tuple[int, int], mean: float, deviation: float, probes: tuple[float, float, float]
) -> None:
    tensor = IMAGENET_TRANSFORM(pattern(*size))
    assert (tensor.shape, tensor.dtype) == ((3, 224, 224), torch.float32)
    found = [tensor.double().mean(), tensor.double().std(), tensor[0, 0, 0], tensor[1, 100, 57], tensor[2, 223, 223]]
    assert [float(value) for value in found] == pytest.approx([mean, deviation, *probes], abs=2e-6)


def test_to_tensor_is_channels_first_within_0_and_1() -> None:
    image = Image.new("RGB", (2, 1), (255, 0, 51))
    image.putpixel((1, 0), (0, 102, 255))
    assert to_tensor(image).tolist() == [[[1.0, 0.0]], [[0.0, pytest.approx(0.4)]], [[pytest.approx(0.2), 1.0]]]


@pytest.mark.parametrize(
    ("mode", "colour", "red_green_blue"),
    [
        ("L", 7, (7, 7, 7)),
        ("1", 1, (255, 255, 255)),
        ("RGBA", (1, 2, 3, 0), (1, 2, 3)),
        ("CMYK", (255, 0, 255, 0), (0, 255, 0)),
    ],
)
def test_every_8_bit_mode_becomes_rgb(mode: str, colour: object, red_green_blue: tuple[int, int, int]) -> None:
    image = to_rgb(Image.new(mode, (3, 2), colour))
    assert (image.mode, image.getpixel((2, 1))) == ("RGB", red_green_blue)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_modes_whose_white_is_unknown_are_refused(mode: str) -> None:
    with pytest.raises(PredictionException, match=f"mode {mode} are not accepted: send 8 bits") as refused:
        to_rgb(Image.new(mode, (1, 1)))
    assert refused.value.error_code == 400


def test_an_image_that_resizing_would_make_huge_is_refused() -> None:
    assert Resize(256)(Image.new("RGB", (2, 2000))).size == (256, 256_000)
    with pytest.raises(PredictionException, match="1 x 400000 pixels is too long and thin") as refused:
        Resize(256)(Image.new("RGB", (1, 400_000)))
    assert refused.value.error_code == 400


def test_transforms_are_applied_in_order() -> None:
    image = Compose([Resize(8), CenterCrop(4)])(pattern(30, 20))
    assert image.size == (4, 4)
    assert list(Compose([])([1, 2])) == [1, 2]
