"""Handlers written for TorchServe, unchanged, in real workers. Another `ts` is installed where the server runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from servers import Server, Servers, error_of

# In the style of TorchServe's examples: a subclass of BaseHandler with a model file and eager weights.
CLASSIFIER = """
import logging
import os

import torch
from ts.context import Context
from ts.handler_utils.timer import timed
from ts.metrics.dimension import Dimension
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import PredictionException, map_class_to_label

import ts
from ts.version import __version__

logger = logging.getLogger(__name__)


class SumClassifier(BaseHandler):
    def __init__(self):
        super().__init__()
        self.initialized = False

    def initialize(self, ctx: Context):
        super().initialize(ctx)
        self.threshold = ctx.model_yaml_config["handler"]["threshold"]
        logger.info("ts version %s", ts.__version__)

    @timed
    def preprocess(self, requests):
        rows = [request.get("data") or request.get("body") for request in requests]
        if any(len(row) != 2 for row in rows):
            raise PredictionException("two numbers, please", 422)
        return torch.tensor(rows, dtype=torch.float32, device=self.device)

    def postprocess(self, outputs):
        self.context.metrics.add_metric(
            name="Classified", value=len(outputs), unit="count", dimensions=[Dimension("Level", "Test")]
        )
        scores = torch.stack([torch.sigmoid(outputs - self.threshold), torch.sigmoid(self.threshold - outputs)], dim=1)
        return map_class_to_label(scores.round(decimals=3).tolist(), self.mapping)
"""
MODEL = """
import torch
from torch import nn


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, rows):
        return rows @ self.weight
"""
# The module next to it has the name of a package of ours, and `ts` is first imported when the model is initialised.
WITH_OWN_HANDLERS = """
from handlers import GREETING


class Greeter(object):
    def initialize(self, context):
        from ts.torch_handler.base_handler import BaseHandler
        from ts.utils.util import list_classes_from_module
        self.base = BaseHandler()
        self.context = context
        self.initialized = True

    def handle(self, data, context):
        from ts.utils.util import PredictionException
        if data[0].get("body") == bytearray(b"bad"):
            raise PredictionException("not today", 418)
        return [f"{GREETING} {type(self.base).__name__}"] * len(data)
"""
MICRO_BATCHED = """
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.base_handler import BaseHandler


class Echo(BaseHandler):
    def __init__(self):
        super().__init__()
        micro_batching = MicroBatching(self)
        self.handle = micro_batching

    def initialize(self, context):
        options = context.model_yaml_config["micro_batching"]
        self.handle.micro_batch_size = options["micro_batch_size"]
        self.handle.parallelism = options["parallelism"]

    def preprocess(self, rows):
        return [row["body"].decode() for row in rows]

    def inference(self, texts):
        return [str(int(text) + 1) for text in texts]

    def postprocess(self, texts):
        return texts
"""
FAKE = "raise ImportError('the installed ts was imported')\n"


@pytest.fixture(scope="module")
def server(module_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Server:
    inputs = tmp_path_factory.mktemp("inputs")
    (inputs / "model.py").write_text(MODEL)
    site = tmp_path_factory.mktemp("site")
    for package in ("ts", "ts/torch_handler", "ts/utils"):
        (site / package).mkdir()
        (site / package / "__init__.py").write_text(FAKE)
    pack = module_servers.archives.pack
    archives = [
        pack(
            "sum",
            CLASSIFIER,
            config={"handler": {"threshold": 1.0, "profile": True}},
            model_file=str(inputs / "model.py"),
            files={"index_to_name.json": json.dumps({"0": "above", "1": "below"})},
        ),
        pack("greeter", WITH_OWN_HANDLERS, files={"handlers.py": "GREETING = 'hello'\n"}),
        pack(
            "micro",
            MICRO_BATCHED,
            config={
                "batchSize": 4,
                "maxBatchDelay": 200,
                "batchingPolicy": "fixed",
                "micro_batching": {"micro_batch_size": 1, "parallelism": {"preprocess": 2, "inference": 2}},
            },
        ),
    ]
    return module_servers.start([archive.name for archive in archives], environment={"PYTHONPATH": str(site)})


def test_an_example_handler_works_unchanged(server: Server) -> None:
    answer = server.predict("sum", json.dumps([2, -1]), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (200, {"above": 0.5, "below": 0.5})
    assert "ts version 0.12.0" in server.log_text()


def test_its_own_error_is_answered(server: Server) -> None:
    answer = server.predict("sum", json.dumps([1, 2, 3]), headers={"Content-Type": "application/json"})
    assert error_of(answer) == (422, "InternalServerException", "two numbers, please")


def test_handlers_of_the_archive_and_names_of_torchserve_live_side_by_side(server: Server) -> None:
    assert server.predict("greeter").text == "hello BaseHandler"
    assert error_of(server.predict("greeter", b"bad")) == (418, "InternalServerException", "not today")


def test_micro_batching_answers_everybody_and_an_error_stays_with_its_request(server: Server) -> None:
    answers = server.predict_together("micro", [b"1", b"2", b"x", b"4"])
    assert [answer.status_code for answer in answers] == [200, 200, 503, 200]
    assert [answer.text for answer in answers if answer.ok] == ["2", "3", "5"]


def test_the_installed_one_was_left_alone(server: Server) -> None:
    assert "the installed ts was imported" not in server.log_text()
    assert Path(server.environment["PYTHONPATH"] or "").joinpath("ts").is_dir()
