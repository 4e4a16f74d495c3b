"""Handlers of images as TorchServe's users write them, against plain torch and Pillow."""

from __future__ import annotations

import base64
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients
from PIL import Image
from servers import Server, Servers, together
from style_workshop import (
    JSON,
    ROWS,
    TEXT,
    Workshop,
    base64_text,
    imagenet_pixels,
    load_network,
    picture,
    pixels,
    png,
)
from torch import nn

import handlers.compat

LABELS = ["ant", "bee", "cat", "dog", "elk", "fox"]
COMPILED = {
    "pt2_block": {"compile": {"enable": True, "backend": "aot_eager", "mode": "default"}},
    "pt2_options": {"backend": "eager", "mode": "default"},
    "pt2_tensorrt": {"compile": {"enable": True, "backend": "tensorrt"}},
    "pt2_hpu": {"compile": {"enable": True, "backend": "hpu_backend"}},
}


def classifier() -> nn.Module:
    return load_network("image_classifier/model.py", "TinyImageNet")


def digits() -> nn.Module:
    return load_network("mnist/mnist.py", "Net")


class YoloNet(nn.Module):
    """Rows of score and class: what of an image is brighter than what."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = images.mean((2, 3))
        classes = torch.arange(3).expand(len(images), 3).clamp(max=1)
        return torch.stack([scores, classes.to(scores.dtype)], dim=2)


def generator_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("models/__init__.py", "")
        archive.write(ROWS / "dcgan_fashiongen/gan.py", "models/gan.py")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server(module_servers: Servers, workshop: Workshop) -> Server:
    models = [*classifier_archives(workshop), *mnist_archives(workshop), *other_archives(workshop)]
    config = {
        "models": json.dumps({"resnet-152-batch": {"1.0": {"marName": "resnet-152-batch.mar", **BATCHES}}}),
        "cors_allowed_origin": "http://localhost:3000",
        "cors_allowed_methods": "GET, POST, PUT, OPTIONS",
    }
    return module_servers.start(models, config, environment={"OMP_NUM_THREADS": "1"})


BATCHES = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 50, "responseTimeout": 120}


def classifier_archives(workshop: Workshop) -> list[str]:
    """One network in the styles that differ in the handler or in the configuration only."""
    labels = workshop.file("index_to_name.json", {str(i): [f"n{i}", label] for i, label in enumerate(LABELS)})
    weights = workshop.weights("resnet152.pth", classifier())
    renamed = {key.replace("classifier.", "head."): value for key, value in torch.load(weights).items()}
    torch.save(renamed, workshop.inputs / "vgg16.pth")
    eager: dict[str, Any] = {"model_file": "image_classifier/model.py", "serialized_file": weights, "extra": [labels]}
    scripted = workshop.scripted("resnet50.pt", classifier())
    micro = {"batchSize": 5, "maxBatchDelay": 2000, "batchingPolicy": "fixed", "micro_batching": MICRO}
    cache = {"torch_inductor_fx_graph_cache": True, "torch_inductor_cache_dir": str(workshop.inputs / "cache")}
    caching = {"minWorkers": 2, "maxWorkers": 2, "handler": {"torch_inductor_caching": cache}, "pt2": "eager"}
    pack = workshop.pack
    return [
        pack("resnet-152-batch", "image_classifier", **eager),
        pack("resnet50", "image_classifier", {"handler": {"profile": True}}, [labels], serialized_file=scripted),
        pack("vgg16", "vgg_16/vgg_handler.py", **{**eager, "serialized_file": workshop.inputs / "vgg16.pth"}),
        pack("micro", "micro_batching/micro_batching_handler.py", micro, **eager),
        pack("caching", "inductor_caching/caching_handler.py", caching, **eager),
        pack("metrics", "custom_metrics/custom_metrics_handler.py", **eager),
        pack("video", "near_real_time_video/video_handler.py", **eager),
        *(pack(name, _compiled_handler(name), {"pt2": pt2}, **eager) for name, pt2 in COMPILED.items()),
    ]


MICRO = {"micro_batch_size": 2, "parallelism": {"preprocess": 2, "inference": 1, "postprocess": 2}}


def _compiled_handler(name: str) -> str:
    return "torch_compile_hpu/hpu_handler.py" if name == "pt2_hpu" else "image_classifier"


def mnist_archives(workshop: Workshop) -> list[str]:
    weights = workshop.weights("mnist_cnn.pt", digits())
    files: dict[str, Any] = {"model_file": "mnist/mnist.py", "serialized_file": weights}
    return [
        workshop.pack("mnist", "mnist/mnist_handler.py", **files),
        workshop.pack("torchdata", "mnist/mnist_torchdata_handler.py", **files),
    ]


def other_archives(workshop: Workshop) -> list[str]:
    names = workshop.file("fastrcnn/index_to_name.json", {"1": "person", "3": "car"})
    checkpoint = workshop.inputs / "sam_vit_h.pth"
    torch.save({"vit_h": torch.tensor([64.0, 192.0])}, checkpoint)
    sam = {"profile": True, "model_type": "vit_h", "sam_checkpoint": checkpoint.name, "process_batch_size": 8}
    gan = load_network("dcgan_fashiongen/gan.py", "Generator")
    return [
        workshop.pack(
            "fcn",
            "image_segmenter",
            model_file="fcn/model.py",
            serialized_file=workshop.weights("fcn.pth", load_fcn()),
            extra=["fcn/fcn.py", "fcn/layers.py"],
        ),
        workshop.pack(
            "fastrcnn",
            "object_detector",
            model_file="fast_rcnn/model.py",
            serialized_file=workshop.weights("fastrcnn.pth", load_network("fast_rcnn/model.py", "TinyRCNN")),
            extra=[names],
        ),
        workshop.pack("yolov8", "yolo/yolo_handler.py", serialized_file=workshop.scripted("yolov8n.pt", YoloNet())),
        workshop.pack(
            "sam", "segment_anything/custom_handler.py", {"handler": sam}, [checkpoint], archive_format="no-archive"
        ),
        workshop.pack(
            "dcgan",
            "dcgan_fashiongen/dcgan_fashiongen_handler.py",
            serialized_file=workshop.weights("DCGAN_fashionGen.pt", gan),
            extra=[workshop.file("models.zip", generator_zip())],
        ),
    ]


def load_fcn() -> nn.Module:
    torch.manual_seed(3)
    return nn.ModuleDict({"head": nn.Sequential(nn.Conv2d(3, 4, 1))})


def best_of(image: Image.Image, count: int = 5) -> dict[str, Any]:
    with torch.no_grad():
        probabilities = classifier()(imagenet_pixels(image)[None]).softmax(1)[0]
    order = probabilities.argsort(descending=True)[:count].tolist()
    return {LABELS[index]: pytest.approx(float(probabilities[index]), abs=1e-4) for index in order}


@pytest.mark.parametrize("name", ["resnet-152-batch", "resnet50", "vgg16", "caching", "metrics", *COMPILED])
def test_classifiers_give_the_five_best_labels_in_their_order(server: Server, name: str) -> None:
    image = picture(90)
    answer = server.predict(name, png(image))
    assert (answer.status_code, answer.json()) == (200, best_of(image))
    assert list(answer.json()) == list(best_of(image))
    assert "Content-Type" not in answer.headers


def test_batch_settings_in_config_properties(server: Server) -> None:
    described = server.describe("resnet-152-batch")[0]
    assert (described["batchSize"], described["maxBatchDelay"]) == (8, 50)
    images = [picture(shade) for shade in range(0, 240, 40)]
    answers = server.predict_together("resnet-152-batch", [png(image) for image in images])
    assert [answer.json() for answer in answers] == [best_of(image) for image in images]


def test_a_browser_sends_a_form_from_another_origin(server: Server) -> None:
    image = picture(10)
    answer = server.predict("resnet50", None, files={"data": ("kitten.png", png(image), "image/png")})
    assert answer.json() == best_of(image)
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


def test_micro_batches_are_cut_out_of_the_batch(server: Server) -> None:
    images = [picture(shade) for shade in range(0, 250, 50)]
    answers = server.predict_together("micro", [png(image) for image in images])
    assert [answer.json() for answer in answers] == [best_of(image) for image in images]
    metadata = server.manage("GET", "models/micro?customized=true").json()[0]["customizedMetadata"]
    assert (sorted(metadata["sizes"]), metadata["parallelism"]) == ([1, 2, 2], MICRO["parallelism"])


def test_a_backend_that_is_not_installed_leaves_the_model_uncompiled(server: Server) -> None:
    log = server.log_text()
    for backend in ("tensorrt", "hpu_backend"):
        assert f"Compiling model model with backend {backend} has failed" in log
    assert "Compiled model with backend aot_eager, mode default" in log


def test_workers_share_the_folder_of_the_compiler(server: Server, workshop: Workshop) -> None:
    assert len(server.describe("caching")[0]["workers"]) == 2
    assert (workshop.inputs / "cache").is_dir()


def test_metrics_of_every_kind(server: Server) -> None:
    metadata = server.manage("GET", "models/metrics?customized=true").json()[0]["customizedMetadata"]
    assert metadata == {"unit": "Count", "dimensions": ["Host", "Kind"], "type": "counter"}
    assert "Failed to update metric" not in server.log_text()


def test_frames_of_a_video_come_back_as_one_list(server: Server) -> None:
    frames = [picture(shade) for shade in (0, 120, 240)]
    body = {str(number): base64_text(png(frame)) for number, frame in enumerate(frames)}
    answer = server.predict("video", json.dumps(body), headers=JSON)
    assert answer.json() == [best_of(frame, 1) for frame in frames]
    assert server.predict("video", png(frames[0])).json() == [best_of(frames[0], 1)]


def test_a_handler_is_debugged_without_a_server(tmp_path: Path) -> None:
    shutil.copy(ROWS / "image_classifier/model.py", tmp_path / "model.py")
    torch.save(classifier().state_dict(), tmp_path / "resnet.pth")
    handlers.compat.activate()
    from ts.torch_handler.image_classifier import ImageClassifier
    from ts.torch_handler.unit_tests.test_utils.mock_context import MockContext

    context: Any = MockContext(model_pt_file="resnet.pth", model_dir=str(tmp_path), model_file="model.py")
    handler = ImageClassifier()
    handler.initialize(context)
    handler.context = context
    image = picture(70)
    requests = [{"data": png(image)}, {"body": bytearray(png(image))}]
    batch = handler.preprocess(requests)
    torch.testing.assert_close(batch[0], imagenet_pixels(image), rtol=1e-4, atol=1e-4)
    results = handler.postprocess(handler.inference(batch))
    assert [list(result) for result in results] == [[str(LABELS.index(label)) for label in best_of(image)]] * 2
    assert handler.handle(requests, context) == results


# --- digits ---


def digit(shade: int) -> Image.Image:
    return Image.linear_gradient("L").resize((28, 28)).rotate(shade)


def digit_values(image: Image.Image) -> torch.Tensor:
    return (pixels(image) - 0.1307) / 0.3081


def test_digits_are_plain_numbers(server: Server) -> None:
    for shade in (0, 45, 90):
        values = digit_values(digit(shade))
        expected = str(int(digits()(values[None]).argmax()))
        raw = server.predict("mnist", png(digit(shade)))
        form = server.predict("mnist", None, files={"data": png(digit(shade))})
        document = server.predict("torchdata", json.dumps({"image": values.tolist()}), headers=JSON)
        assert [raw.text, form.text, document.text] == [expected] * 3


def test_digits_are_explained_pixel_by_pixel(server: Server) -> None:
    values = digit_values(digit(45))[None]
    method = IntegratedGradients(digits())
    form = {"data": png(digit(45)), "target": (None, "7")}
    answers = [
        (0, server.infer("POST", "explanations/mnist", data=png(digit(45)))),
        (7, server.infer("POST", "explanations/mnist", files=form)),
    ]
    for target, answer in answers:
        expected = method.attribute(values, target=target, n_steps=15)[0].detach()
        torch.testing.assert_close(torch.tensor(answer.json()), expected.float(), rtol=1e-3, atol=1e-4)


def test_the_profiler_writes_traces(module_servers: Servers, server: Server) -> None:
    profiled = module_servers.start(["mnist=mnist.mar"], environment={"ENABLE_TORCH_PROFILER": "true"})
    expected = str(int(digits()(digit_values(digit(90))[None]).argmax()))
    assert profiled.predict("mnist", png(digit(90))).text == expected
    traces = list(profiled.temp.glob("pytorch_profiler/mnist/*.json"))
    assert "preprocess" in traces[0].read_text()
    log = profiled.log_text()
    assert "Saving chrome trace to : " in log and "Self CPU" in log
    shutil.rmtree(profiled.temp / "pytorch_profiler")  # the server leaves what it was asked for, and nothing else


# --- more than classes ---


def test_segmentation_with_a_model_of_several_files(server: Server) -> None:
    image = picture(200)
    found = torch.tensor(server.predict("fcn", png(image)).json())
    with torch.no_grad():
        probabilities = load_fcn()["head"](imagenet_pixels(image)[None]).softmax(1)[0]  # type: ignore[index]
    assert found.shape == (224, 224, 2)
    torch.testing.assert_close(found[..., 1], probabilities.amax(0), rtol=1e-3, atol=1e-4)
    assert (found[..., 0] == probabilities.argmax(0)).float().mean() > 0.999


def test_detected_objects_have_labels_boxes_and_scores(server: Server) -> None:
    image = Image.new("RGB", (40, 20), (255, 255, 255))
    image.paste((204, 204, 204), (20, 0, 40, 20))
    answer = server.predict("fastrcnn", None, files={"data": png(image)})
    assert answer.json() == [
        {"person": [0.0, 0.0, 20.0, 20.0], "score": pytest.approx(1.0)},
        {"car": [20.0, 0.0, 40.0, 20.0], "score": pytest.approx(0.8)},
    ]
    image.paste((100, 100, 100), (20, 0, 40, 20))
    assert len(server.predict("fastrcnn", png(image)).json()) == 1


def test_objects_are_counted_by_a_detector_that_loads_itself(server: Server) -> None:
    yellow, white = Image.new("RGB", (64, 48), (255, 255, 0)), Image.new("RGB", (64, 48), (255, 255, 255))
    assert server.predict("yolov8", png(yellow)).json() == {"person": 1, "bus": 1}
    assert server.predict("yolov8", png(white)).json() == {"person": 1, "bus": 2}


def test_masks_come_back_as_the_text_of_a_pickle(server: Server) -> None:
    image = Image.linear_gradient("L")
    raw = server.predict("sam", png(image))
    text = server.predict("sam", base64_text(png(image)), headers=TEXT)
    assert raw.text == text.text
    masks = pickle.loads(base64.b64decode(raw.text))
    assert [mask["area"] for mask in masks] == [256 * 192, 256 * 64]
    assert masks[0]["segmentation"].shape == (256, 256)


def test_generated_images_are_jpeg_bytes(server: Server) -> None:
    def expected(count: int, pose: int) -> bytes:
        noise = torch.linspace(-1, 1, count * 6).reshape(count, 6) + pose
        with torch.no_grad():
            images = load_network("dcgan_fashiongen/gan.py", "Generator")(noise)
        strip = torch.cat(list(images), dim=2)
        raw = bytes((strip * 255).round().to(torch.uint8).permute(1, 2, 0).flatten().tolist())
        buffer = io.BytesIO()
        Image.frombytes("RGB", (8 * count, 8), raw).save(buffer, "JPEG")
        return buffer.getvalue()

    def generated(**body: int) -> bytes:
        return server.predict("dcgan", json.dumps(body), headers=JSON).content

    answers = together(lambda: generated(number_of_images=3, input_pose=1), lambda: generated(), lambda: generated())
    assert answers == [expected(3, 1), expected(1, 0), expected(1, 0)]
