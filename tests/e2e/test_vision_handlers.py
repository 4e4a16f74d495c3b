"""Archives for the built-in image handlers through the real server, against plain torch and Captum."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from servers import Server, Servers, error_of, together
from torch import nn

from archiver.pack import PackRequest, pack
from handlers.image_transforms import IMAGENET_TRANSFORM

CLASSIFIER = """
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 5, stride=4)
        self.scores = nn.Linear(4, 6)

    def forward(self, images):
        return self.scores(torch.tanh(self.convolution(images)).mean((2, 3)) * 20)
"""
SEGMENTER = """
from torch import nn


class Segmenter(nn.Module):
    def forward(self, images):
        return {"out": images[:, :2]}
"""
DETECTOR = """
import torch
from torch import nn


class Detector(nn.Module):
    def forward(self, images):
        return [self.whole(image) for image in images]

    def whole(self, image):
        box = torch.tensor([[0.0, 0.0, image.shape[2], image.shape[1]]])
        return {"boxes": box, "labels": torch.tensor([1]), "scores": image.mean()[None]}
"""
LABELS = ["ant", "bee", "cat", "dog", "elk", "fox"]
INDEX_TO_NAME = json.dumps(dict(enumerate(LABELS)))
CONFIG = "{minWorkers: 1, maxWorkers: 1, batchSize: 8, maxBatchDelay: 50}"
JSON = {"Content-Type": "application/json"}


def classifier() -> nn.Module:
    """The class in CLASSIFIER with the weights that its archive gets."""
    scope: dict[str, Any] = {}
    exec(CLASSIFIER, scope)
    torch.manual_seed(0)
    return scope["Classifier"]().eval()


def pack_built_in(folder: Path, store: Path, handler: str, model: str, **options: Any) -> str:
    """The name of an archive called like its handler."""
    folder.joinpath(f"{handler}_model.py").write_text(model)
    folder.joinpath("index_to_name.json").write_text(INDEX_TO_NAME)
    folder.joinpath("model-config.yaml").write_text(CONFIG)
    store.mkdir(exist_ok=True)
    request = PackRequest(
        handler,
        "1.0",
        handler,
        model_file=str(folder / f"{handler}_model.py"),
        extra_files=str(folder / "index_to_name.json"),
        config_file=str(folder / "model-config.yaml"),
        export_path=str(store),
        **options,
    )
    return pack(request).name


@pytest.fixture(scope="module")
def server(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Server:
    inputs, store = tmp_path_factory.mktemp("inputs"), module_servers.archives.folder
    torch.save(classifier().state_dict(), inputs / "weights.pt")
    models = [
        pack_built_in(inputs, store, "image_classifier", CLASSIFIER, serialized_file=str(inputs / "weights.pt")),
        pack_built_in(inputs, store, "image_segmenter", SEGMENTER),
        pack_built_in(inputs, store, "object_detector", DETECTOR),
    ]
    return module_servers.start(models, environment={"OMP_NUM_THREADS": "1"})


def picture(red: int, width: int = 90, height: int = 60) -> Image.Image:
    image = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", [Image.new("L", (width, height), red), image, image.rotate(180)])


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def text(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def predicted(image: Image.Image) -> dict[str, Any]:
    with torch.no_grad():
        probabilities = classifier()(IMAGENET_TRANSFORM(image)[None]).softmax(1)[0]
    best = probabilities.argsort(descending=True)[:5].tolist()
    return {LABELS[index]: pytest.approx(float(probabilities[index]), abs=1e-5) for index in best}


def explained(image: Image.Image, target: int) -> torch.Tensor:
    method = IntegratedGradients(classifier())
    attributions: torch.Tensor = method.attribute(IMAGENET_TRANSFORM(image)[None], target=target, n_steps=15)[0]
    return attributions


def test_every_form_of_a_request_gets_the_same_answer(server: Server) -> None:
    image = picture(120)
    answers = [
        server.predict("image_classifier", png(image)),
        server.infer("POST", "predictions/image_classifier", files={"data": png(image)}),
        server.predict("image_classifier", json.dumps(text(image)), headers=JSON),
        server.predict("image_classifier", json.dumps({"data": text(image)}), headers=JSON),
        server.predict("image_classifier", text(image), headers={"Content-Type": "text/plain"}),
        server.predict("image_classifier", json.dumps(IMAGENET_TRANSFORM(image).tolist()), headers=JSON),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()) == (200, predicted(image))
        assert list(answer.json()) == list(predicted(image))


def test_requests_at_one_time_get_their_own_answers(server: Server) -> None:
    images = [picture(red) for red in range(0, 256, 32)]
    answers = server.predict_together("image_classifier", [png(image) for image in images])
    assert [answer.json() for answer in answers] == [predicted(image) for image in images]


def test_explanations_at_one_time_are_each_for_their_own_target(server: Server) -> None:
    images = [picture(red) for red in (0, 100, 200)]

    def explain(image: Image.Image, target: int) -> Any:
        files = {"data": png(image), "target": (None, str(target))}
        return server.infer("POST", "explanations/image_classifier", files=files)

    answers = together(*(lambda pair=pair: explain(*pair) for pair in zip(images, [5, 0, 3], strict=True)))
    for answer, image, target in zip(answers, images, [5, 0, 3], strict=True):
        assert answer.status_code == 200, answer.text
        torch.testing.assert_close(torch.tensor(answer.json()), explained(image, target), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"some words", {}, 400, "The 10 bytes of the request are no image in a format that can be read"),
        (b"", {}, 400, "The request holds no image"),
        (b'"abcde"', JSON, 400, "The text of the request is no image in base64"),
        (b"[[1, 2], [3]]", JSON, 400, "The list of the request is no image [channels][height][width] of numbers"),
        (b"{}", JSON, 400, "The request holds no image"),
        # Only the model knows which shapes it takes.
        (b"[[1, 2], [3, 4]]", JSON, 503, "Prediction failed"),
    ],
)
def test_a_bad_request_is_answered_alone(
    server: Server, body: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    good = picture(120)
    bad, *others = together(
        lambda: server.predict("image_classifier", body, headers=headers),
        *[lambda: server.predict("image_classifier", png(good))] * 3,
    )
    found_status, _, found_message = error_of(bad)
    assert found_status == status
    assert found_message.startswith(message)
    assert [answer.json() for answer in others] == [predicted(good)] * 3


def test_a_target_that_is_no_class_is_refused(server: Server) -> None:
    body = json.dumps({"data": text(picture(0)), "target": 6})
    answer = server.infer("POST", "explanations/image_classifier", data=body, headers=JSON)
    assert error_of(answer)[::2] == (400, "target: 6 is not allowed; allowed: a whole number from 0 to 5")


def test_segmentation(server: Server) -> None:
    image = picture(255)
    found = torch.tensor(server.predict("image_segmenter", png(image)).json())
    probabilities = IMAGENET_TRANSFORM(image)[:2].softmax(0)
    assert torch.equal(found[..., 0], probabilities.argmax(0).float())
    torch.testing.assert_close(found[..., 1], probabilities.amax(0), rtol=1e-4, atol=1e-6)


def test_objects_in_images_of_several_sizes(server: Server) -> None:
    sizes = [(30, 20), (10, 40), (30, 20), (25, 25)]
    images = [png(Image.new("RGB", size, (255, 255, 255))) for size in sizes]
    answers = server.predict_together("object_detector", images)
    expected = [[{"bee": [0.0, 0.0, *map(float, size)], "score": pytest.approx(1.0)}] for size in sizes]
    assert [answer.json() for answer in answers] == expected


def test_a_model_without_classes_is_not_explained(server: Server) -> None:
    answer = server.infer("POST", "explanations/object_detector", data=png(picture(255)))
    status, _, message = error_of(answer)
    assert status == 501
    assert message.startswith("ObjectDetector cannot explain this model")


def test_a_built_in_handler_to_come_says_so_when_it_is_registered(servers: Servers, tmp_path: Path) -> None:
    archive = pack_built_in(tmp_path, servers.archives.folder, "vllm_handler", CLASSIFIER)
    server = servers.start()
    answer = server.register(archive, initial_workers=1, synchronous="true")
    assert answer.status_code >= 400
    assert "The handler vllm_handler is not there yet" in answer.text
