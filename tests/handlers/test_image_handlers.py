"""image_classifier, image_segmenter, object_detector and their base against plain torch, Pillow and Captum."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from torch import nn

from handlers.errors import ModelLoadError, PredictionException
from handlers.image_classifier import ImageClassifier
from handlers.image_segmenter import ImageSegmenter
from handlers.image_transforms import IMAGENET_TRANSFORM
from handlers.object_detector import ObjectDetector
from handlers.testing import HandlerHarness
from handlers.vision import VisionHandler

CLASSES = 6
LABELS = {str(index): name for index, name in enumerate(["ant", "bee", "cat", "dog", "elk", "fox"])}


class Classifier(nn.Module):
    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 4, 5, stride=4)
        self.scores = nn.Linear(4, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores(torch.tanh(self.convolution(images)).mean((2, 3)) * 20)


class Segmenter(nn.Module):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": images[:, :2] * 3}


class Detector(nn.Module):
    """Finds the whole image, with its mean as the score, and its left half, with half that score."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[type] = []

    def forward(self, images: Any) -> list[dict[str, torch.Tensor]]:
        self.forms.append(type(images))
        return [self.find(image) for image in images]

    def find(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        _, height, width = image.shape
        boxes = torch.tensor([[0.0, 0.0, width, height], [0.0, 0.0, width / 2, height]])
        return {"boxes": boxes, "labels": torch.tensor([1, 0]), "scores": image.mean() * torch.tensor([1.0, 0.5])}


def harness(
    folder: Path, handler: type[VisionHandler], model: nn.Module, labels: dict[str, str] | None = None, **context: Any
) -> HandlerHarness:
    """The handler with a model of this module instead of one from a file."""

    class Handler(handler):  # type: ignore[misc, valid-type]
        def initialize(self, given: Any) -> None:
            given.system_properties.update(context)
            super().initialize(given)

        def _load_torchscript_model(self, model_pt_path: str) -> nn.Module:
            return model.eval()

    if labels is not None:
        (folder / "index_to_name.json").write_text(json.dumps(labels))
    return HandlerHarness(Handler, folder, serialized_file="net.pt")


def picture(width: int = 90, height: int = 60, red: int = 0) -> Image.Image:
    image = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", [Image.new("L", (width, height), red), image, image.rotate(180)])


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def in_base64(image: Image.Image) -> str:
    return base64.b64encode(encoded(image)).decode()


def numbers(image: Image.Image) -> list[Any]:
    listed: list[Any] = IMAGENET_TRANSFORM(image).tolist()
    return listed


def best(model: nn.Module, image: Image.Image, count: int) -> list[tuple[int, float]]:
    with torch.no_grad():
        probabilities = torch.softmax(model(IMAGENET_TRANSFORM(image)[None]), 1)[0].tolist()
    return sorted(enumerate(probabilities), key=lambda pair: -pair[1])[:count]


def insights(model: nn.Module, image: Image.Image, target: int) -> torch.Tensor:
    explained: torch.Tensor = IntegratedGradients(model).attribute(
        IMAGENET_TRANSFORM(image)[None], target=target, n_steps=15
    )
    return explained[0]


def named(pairs: list[tuple[int, float]]) -> dict[str, Any]:
    return {LABELS[str(index)]: pytest.approx(value, abs=1e-6) for index, value in pairs}


# --- what a request may hold ---


@pytest.mark.parametrize(
    "row",
    [
        {"body": encoded(picture())},
        {"data": bytearray(encoded(picture()))},
        {"body": in_base64(picture())},
        {"data": in_base64(picture()), "target": bytearray(b"2")},
        {"body": {"data": in_base64(picture())}},
        in_base64(picture()),
        {"body": numbers(picture())},
    ],
)
def test_every_form_of_an_image_gets_the_same_answer(tmp_path: Path, row: Any) -> None:
    model = Classifier()
    started = harness(tmp_path, ImageClassifier, model, LABELS)
    (answer,) = started.handler.handle([row], started.context)
    assert answer == named(best(model, picture(), 5))


def bomb(width: int = 20_000, height: int = 20_000) -> bytes:
    """A PNG that says it is that large; nothing follows."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT"]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"body": bytearray(b"some words")}, "The 10 bytes of the request are no image"),
        ({"body": encoded(picture(), "JPEG")[:-200]}, "The image of the request is broken"),
        ({"body": bytearray()}, "The request holds no image"),
        ({"words": bytearray(b"x")}, "The request holds no image"),
        ({"body": {"data": ""}}, "The request holds no image"),
        ({"body": 5}, "The request holds no image but a value of type int"),
        ({"body": "abcde"}, "The text of the request is no image in base64"),
        ({"body": base64.b64encode(b"some words").decode()}, "The 10 bytes of the request are no image"),
        ({"body": [[1, 2], [3]]}, r"no image \[channels\]\[height\]\[width\] of numbers"),
        ({"body": [["a"]]}, r"no image \[channels\]\[height\]\[width\] of numbers"),
        ({"body": [[[1e999]], None]}, r"no image \[channels\]\[height\]\[width\] of numbers"),
        ({"body": bomb()}, "limit_max_image_pixels=false lifts the limit"),
        ({"body": encoded(picture(), "EPS")}, "EPS images are not accepted"),
    ],
)
def test_what_is_no_image_is_refused_with_the_cause(tmp_path: Path, row: Any, message: str) -> None:
    started = harness(tmp_path, ImageClassifier, Classifier())
    with pytest.raises(PredictionException, match=message) as refused:
        started.handler.handle([row], started.context)
    assert refused.value.error_code == 400
    assert "0x" not in refused.value.message


def test_the_pixel_limit_can_be_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    limited = harness(tmp_path, ImageClassifier, Classifier(), limit_max_image_pixels=True)
    with pytest.raises(PredictionException, match="decompression bomb"):
        limited.predict(encoded(picture()))
    free = harness(tmp_path, ImageClassifier, Classifier(), limit_max_image_pixels=False)
    assert len(free.predict(encoded(picture()))) == 5


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_files_of_every_mode_are_classified(tmp_path: Path, mode: str) -> None:
    model = Classifier()
    image = picture().convert(mode)
    answer = harness(tmp_path, ImageClassifier, model, LABELS).predict(encoded(image))
    assert answer == named(best(model, image.convert("RGB"), 5))


def test_an_orientation_in_the_file_changes_nothing(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    picture().save(buffer, "PNG", exif=exif)
    model = Classifier()
    answer = harness(tmp_path, ImageClassifier, model, LABELS).predict(buffer.getvalue())
    assert answer == named(best(model, picture(), 5))


# --- image_classifier ---


def test_a_batch_is_answered_in_order_most_probable_first(tmp_path: Path) -> None:
    model = Classifier()
    images = [picture(red=red) for red in (0, 120, 255)]
    answers = harness(tmp_path, ImageClassifier, model, LABELS).predict_batch([encoded(image) for image in images])
    assert answers == [named(best(model, image, 5)) for image in images]
    assert [list(answer) for answer in answers] == [list(named(best(model, image, 5))) for image in images]


def test_without_labels_classes_have_their_index_as_name(tmp_path: Path) -> None:
    model = Classifier()
    answer = harness(tmp_path, ImageClassifier, model).predict(encoded(picture()))
    assert list(answer) == [str(index) for index, _ in best(model, picture(), 5)]


def test_how_many_classes_are_named(tmp_path: Path) -> None:
    started = harness(tmp_path, ImageClassifier, Classifier(), LABELS)
    assert started.handler.get_max_result_classes() == 5
    started.handler.set_max_result_classes(2)
    assert len(started.predict(encoded(picture()))) == 2
    assert ImageClassifier.topk == 5
    assert len(harness(tmp_path, ImageClassifier, Classifier(3), LABELS).predict(encoded(picture()))) == 3


class OwnProcessing(ImageClassifier):
    topk = 1
    image_processing = staticmethod(lambda image: torch.full((3, 8, 8), float(image.width)))


def test_subclasses_choose_their_own_processing(tmp_path: Path) -> None:
    model = Classifier()
    answer = harness(tmp_path, OwnProcessing, model, LABELS).predict(encoded(picture(width=2)))
    with torch.no_grad():
        expected = model(torch.full((1, 3, 8, 8), 2.0)).argmax().item()
    assert list(answer) == [LABELS[str(expected)]]


def test_the_base_takes_images_as_they_are(tmp_path: Path) -> None:
    answer = harness(tmp_path, VisionHandler, nn.Identity()).predict(encoded(Image.new("RGB", (2, 1), (255, 0, 51))))
    assert answer == [[[1.0, 1.0]], [[0.0, 0.0]], [[pytest.approx(0.2)] * 2]]


def test_a_missing_pillow_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ModelLoadError, match=r"needs Pillow: pip install 'modelserver\[vision\]'"):
        harness(tmp_path, ImageClassifier, Classifier())


# --- explanations ---


def test_every_request_of_a_batch_is_explained_for_its_own_target(tmp_path: Path) -> None:
    model = Classifier()
    started = harness(tmp_path, ImageClassifier, model, LABELS)
    assert started.handler.batch_explanations
    images = [picture(red=red) for red in (0, 120, 255)]
    bodies = [{"data": in_base64(image), "target": target} for image, target in zip(images, [3, 0, 5], strict=True)]
    explained = torch.tensor(started.explain_batch(bodies))
    expected = torch.stack([insights(model, image, target) for image, target in zip(images, [3, 0, 5], strict=True)])
    torch.testing.assert_close(explained, expected, rtol=1e-4, atol=1e-6)


def test_without_a_target_class_0_is_explained(tmp_path: Path) -> None:
    model = Classifier()
    explained = harness(tmp_path, ImageClassifier, model).explain(encoded(picture()))
    torch.testing.assert_close(torch.tensor(explained), insights(model, picture(), 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", [CLASSES, -1, "two", 1.5, [1], True])
def test_a_target_that_is_no_class_is_refused(tmp_path: Path, target: Any) -> None:
    with pytest.raises(PredictionException, match=r"target: .*from 0 to 5") as refused:
        harness(tmp_path, ImageClassifier, Classifier()).explain({"data": in_base64(picture()), "target": target})
    assert refused.value.error_code == 400


@pytest.mark.parametrize("handler", [ImageSegmenter, ObjectDetector])
def test_models_without_classes_are_not_explained(tmp_path: Path, handler: type[VisionHandler]) -> None:
    model = Segmenter() if handler is ImageSegmenter else Detector()
    with pytest.raises(PredictionException, match="cannot explain this model") as refused:
        harness(tmp_path, handler, model).explain(encoded(picture()))
    assert refused.value.error_code == 501


class OwnInsights(ImageClassifier):
    def get_insights(self, tensor_data: torch.Tensor, _: Any, target: Any = 0) -> list[Any]:
        return [{"target": target, "shape": list(tensor_data.shape), "kind": type(_).__name__}]


def test_insights_of_a_subclass_are_asked_for_one_request_at_a_time(tmp_path: Path) -> None:
    started = harness(tmp_path, OwnInsights, Classifier())
    assert not started.handler.batch_explanations
    row = {"data": bytearray(encoded(picture())), "target": bytearray(b"4")}
    prepared = started.handler.preprocess([row])
    explained = started.handler.explain_handle(prepared, [row])
    assert explained == [{"target": 4, "shape": [1, 3, 224, 224], "kind": "bytearray"}]


# --- image_segmenter and object_detector ---


def test_segmentation_is_class_and_probability_per_pixel(tmp_path: Path) -> None:
    images = [picture(red=red) for red in (0, 255)]
    answers = harness(tmp_path, ImageSegmenter, Segmenter()).predict_batch([encoded(image) for image in images])
    for answer, image in zip(answers, images, strict=True):
        red, green = (IMAGENET_TRANSFORM(image)[:2] * 3).double()
        probability = 1 / (1 + torch.exp(-(red - green).abs()))
        found = torch.tensor(answer, dtype=torch.float64)
        assert found.shape == (224, 224, 2)
        assert torch.equal(found[..., 0], (green > red).double())
        torch.testing.assert_close(found[..., 1], probability, rtol=1e-5, atol=1e-6)


WHITE = (255, 255, 255)


def test_objects_above_the_threshold_are_named_and_placed(tmp_path: Path) -> None:
    started = harness(tmp_path, ObjectDetector, Detector(), LABELS)
    white = encoded(Image.new("RGB", (30, 20), WHITE))
    whole = {"bee": [0.0, 0.0, 30.0, 20.0], "score": pytest.approx(1.0)}
    half = {"ant": [0.0, 0.0, 15.0, 20.0], "score": pytest.approx(0.5)}
    assert started.predict(white) == [whole, half]
    started.handler.threshold = 0.75
    assert started.predict(white) == [whole]
    assert started.predict(encoded(Image.new("RGB", (30, 20)))) == []


def test_images_of_one_size_reach_the_detector_as_one_tensor_of_several_as_a_list(tmp_path: Path) -> None:
    model = Detector()
    started = harness(tmp_path, ObjectDetector, model)
    large, small = (encoded(Image.new("RGB", size, WHITE)) for size in [(30, 20), (10, 40)])
    assert started.predict_batch([large, large])[1][0]["1"] == [0.0, 0.0, 30.0, 20.0]
    mixed = started.predict_batch([large, small])
    assert [answer[0]["1"] for answer in mixed] == [[0.0, 0.0, 30.0, 20.0], [0.0, 0.0, 10.0, 40.0]]
    assert model.forms == [torch.Tensor, list]
