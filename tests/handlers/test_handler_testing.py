"""The harness for handler authors."""

from __future__ import annotations

import pytest

from handlers.errors import ModelLoadError, PredictionException
from handlers.testing import HandlerHarness, as_request

CLASS_FILE = """
from handlers.base import BaseHandler
from handlers.errors import PredictionException
import neighbour

class Echo(BaseHandler):
    def initialize(self, context):
        self.prefix = context.model_yaml_config["handler"]["prefix"] + neighbour.SUFFIX

    def handle(self, data, context):
        self.context = context
        context.set_response_header(0, "X-Seen", context.get_request_header(0, "X-Sent") or "")
        context.metrics.add_counter("Echoed", len(data), 0)
        return [self.prefix + str(row["body"]) for row in data]
"""
FUNCTION_FILE = """
loaded = []

def handle(data, context):
    if data is None:
        loaded.append(context.system_properties["model_dir"])
        return None
    return [len(loaded) for _ in data]

def other(data, context):
    return None if data is None else ["other"] * len(data)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "echo.py").write_text(CLASS_FILE)
    (tmp_path / "neighbour.py").write_text("SUFFIX = ': '\n")
    (tmp_path / "functions.py").write_text(FUNCTION_FILE)
    (tmp_path / "two.py").write_text("class A: pass\nclass B: pass\n")
    return tmp_path


def test_a_class_out_of_a_file(folder):
    harness = HandlerHarness(folder / "echo.py", folder, {"handler": {"prefix": "echo"}})
    assert harness.predict("text", "text/plain", {"X-Sent": "yes"}) == "echo: text"
    assert harness.context.get_response_headers(0) == {"X-Seen": "yes"}
    assert harness.predict_batch([{"a": 1}, "b"]) == ["echo: {'a': 1}", "echo: bytearray(b'b')"]
    assert [(sample.name, sample.value, sample.request_id) for sample in harness.metrics] == [
        ("Echoed", 1.0, "request-0"),
        ("Echoed", 2.0, "request-0"),
    ]


def test_functions_out_of_a_file(folder):
    assert HandlerHarness(folder / "functions.py", folder).predict("x") == 1
    assert HandlerHarness(f"{folder / 'functions.py'}:other", folder).predict("x") == "other"


def test_what_is_no_handler_is_named(folder):
    with pytest.raises(ModelLoadError, match="Expected only one class"):
        HandlerHarness(folder / "two.py", folder)
    with pytest.raises(ModelLoadError, match=r"absent\.py is not a Python file"):
        HandlerHarness(folder / "absent.py", folder)
    with pytest.raises(ModelLoadError, match="no class or function 'nothing'"):
        HandlerHarness(f"{folder / 'functions.py'}:nothing", folder)


def test_base_handler_is_found_by_name(tmp_path):
    with pytest.raises(ModelLoadError, match="No model weights"):
        HandlerHarness("base_handler", tmp_path)


TORCHSERVE_FILE = """
from ts.context import Context
from ts.handler_utils.utils import send_intermediate_predict_response

class Streaming:
    def initialize(self, context: Context):
        pass

    async def handle(self, data, context):
        for part in ("a", "b"):
            send_intermediate_predict_response([part] * len(data), context.request_ids, "ok", 200, context)
        return ["end"] * len(data)
"""


def test_parts_of_an_asynchronous_handler_made_for_torchserve(tmp_path):
    (tmp_path / "streaming.py").write_text(TORCHSERVE_FILE)
    harness = HandlerHarness(tmp_path / "streaming.py", tmp_path)
    assert harness.predict_batch(["x", "y"]) == ["end", "end"]
    assert harness.chunks == [(0, "a"), (1, "a"), (0, "b"), (1, "b")]
    assert harness.predict("x") == "end"
    assert harness.chunks == [(0, "a"), (0, "b")]


def test_handlers_that_torchserve_finds_at_registration(tmp_path):
    with pytest.raises(ModelLoadError, match="dali_handler is not there yet"):
        HandlerHarness("dali_handler", tmp_path)


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        ("text", None, bytearray(b"text")),
        (b"text", "application/octet-stream", bytearray(b"text")),
        ("text", "text/plain; charset=utf-8", "text"),
        ('{"a": 1}', "application/json", {"a": 1}),
        ("{broken", "application/json", bytearray(b"{broken")),
        ({"a": (1, 2)}, None, {"a": [1, 2]}),
        (5, None, 5),
    ],
)
def test_requests_are_delivered_as_a_worker_delivers_them(body, content_type, expected):
    value = as_request(body, content_type)["body"]
    assert value == expected
    assert type(value) is type(expected)


def test_errors_of_the_handler_reach_the_author(minilm_dir):
    harness = HandlerHarness("transformer_handler", minilm_dir, serialized_file="model.safetensors")
    with pytest.raises(PredictionException, match="the text is empty : 400"):
        harness.predict("")
