"""BaseHandler: loading, the order of the steps, what subclasses may replace."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from handlers.base import BaseHandler
from handlers.errors import ModelLoadError, PredictionException
from handlers.testing import HandlerHarness

MODEL_FILE = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, rows):
        return self.linear(rows)
"""
STATE = {"linear.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "linear.bias": torch.tensor([0.5, -0.5])}
ROWS = [[1.0, 1.0], [0.0, 2.0]]
ANSWERS = [[3.5, 6.5], [4.5, 7.5]]


class RowHandler(BaseHandler):
    def preprocess(self, data):
        return super().preprocess([row["body"] for row in data])


class Whole(nn.Module):
    """What a pickle of a whole model holds."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.linear.load_state_dict({"weight": STATE["linear.weight"], "bias": STATE["linear.bias"]})

    def forward(self, rows):
        return self.linear(rows)


def manifest(weights=None, model_file=None):
    return {"model": {"modelName": "m", "serializedFile": weights, "modelFile": model_file}}


def harness(folder, weights=None, model_file=None, config=None, handler=RowHandler):
    return HandlerHarness(handler, folder, config, manifest(weights, model_file))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(MODEL_FILE)
    torch.save(STATE, tmp_path / "net.pt")
    torch.save(Whole(), tmp_path / "whole.pth")
    save_file(STATE, tmp_path / "net.safetensors")
    return tmp_path


@pytest.mark.parametrize("weights", ["net.pt", "net.safetensors"])
def test_state_dict_and_model_file(folder, weights):
    started = harness(folder, weights, "net.py")
    assert started.predict_batch(ROWS) == ANSWERS
    assert started.handler.initialized
    assert started.handler.mapping is None
    assert not started.handler.model.training


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(folder):
    torch.jit.save(torch.jit.script(Whole()), folder / "script.pt")
    assert harness(folder, "script.pt").predict_batch(ROWS) == ANSWERS


class LoadsForTraining(RowHandler):
    def _load_pickled_model(self, model_dir, model_file, model_pt_path):
        return super()._load_pickled_model(model_dir, model_file, model_pt_path).train()

    def _load_torchscript_model(self, model_pt_path):
        return nn.Sequential(super()._load_torchscript_model(model_pt_path), nn.Dropout())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("model_file", ["net.py", None])
def test_overrides_leave_the_mode_of_the_model_to_the_base(folder, model_file):
    if model_file is None:
        torch.jit.trace(Whole(), torch.ones(1, 2)).save(folder / "net.pt")
    loaded = harness(folder, "net.pt", model_file, handler=LoadsForTraining).handler.model
    assert not any(module.training for module in loaded.modules())


def test_model_file_without_weights_is_set_at_random(folder):
    assert len(harness(folder, None, "net.py").predict_batch(ROWS)) == 2


def test_a_pickle_needs_the_operators_word(folder):
    with pytest.raises(ModelLoadError, match="allow_pickle: true"):
        harness(folder, "whole.pth", "net.py")
    allowed = {"handler": {"allow_pickle": "true"}}
    assert harness(folder, "whole.pth", "net.py", allowed).predict_batch(ROWS) == ANSWERS
    assert harness(folder, "whole.pth", None, allowed).predict_batch(ROWS) == ANSWERS


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("weights", "model_file", "message"),
    [
        (None, None, "No model weights could be loaded"),
        ("whole.pth", None, "No model weights could be loaded: whole.pth needs --model-file"),
        ("net.safetensors", None, "net.safetensors needs --model-file"),
        ("net.pt", None, "cannot be loaded as TorchScript"),
        ("absent.pt", "net.py", r"absent.pt is named in the manifest but is not in the archive"),
        ("net.pt", "absent.py", r"Missing the model.py file"),
        ("net.pt", "two.py", "Expected only one class as model definition"),
        ("broken.pt", "net.py", r"broken.pt"),
        ("broken.safetensors", "net.py", r"broken.safetensors cannot be read"),
        ("other.pt", "net.py", "missing: linear.bias; unexpected: extra; of another shape: linear.weight"),
        ("list.pt", "net.py", "holds a list, not a state dict"),
    ],
)
def test_what_cannot_be_loaded_is_named(folder, weights, model_file, message):
    (folder / "two.py").write_text("class A: pass\nclass B: pass\n")
    (folder / "broken.pt").write_bytes(b"no pickle")
    (folder / "broken.safetensors").write_bytes(b"no safetensors")
    torch.save({"linear.weight": torch.zeros(1), "extra": torch.zeros(1)}, folder / "other.pt")
    torch.save([1], folder / "list.pt")
    with pytest.raises(ModelLoadError, match=message):
        harness(folder, weights, model_file)


def test_the_archives_own_file_wins_over_modules_of_its_name(folder):
    (folder / "json.py").write_text(MODEL_FILE)
    import sys

    before = sys.modules["json"]
    try:
        assert harness(folder, "net.pt", "json.py").predict_batch(ROWS) == ANSWERS
    finally:
        sys.modules["json"] = before


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"0": "cat", "1": "dog"}, {"0": "cat", "1": "dog"}),
        ({"0": ["n01", "cat"], "1": ["n02", "dog"]}, {"0": "cat", "1": "dog"}),
        ({"object_type_names": ["cat", "dog"]}, {"0": "cat", "1": "dog"}),
    ],
)
def test_labels(folder, document, expected):
    (folder / "index_to_name.json").write_text(json.dumps(document))
    assert harness(folder, "net.pt", "net.py").handler.mapping == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('["cat"]', 'index->name JSON mapping should be in "class": "label" format.'),
        ('{"0": 5}', "labels in index->name mapping must be either str or List"),
        ("{", "is not valid JSON"),
    ],
)
def test_bad_labels(folder, document, message):
    (folder / "index_to_name.json").write_text(document)
    with pytest.raises(ModelLoadError, match=message):
        harness(folder, "net.pt", "net.py")


@pytest.mark.parametrize(
    ("pt2", "options"),
    [
        ({"compile": {"enable": True, "backend": "eager", "fullgraph": True}}, {"backend": "eager", "fullgraph": True}),
        ({"compile": {"enable": "true"}}, {"backend": "inductor"}),
        ("eager", {"backend": "eager"}),
        ({"backend": "eager", "mode": "default"}, {"backend": "eager", "mode": "default"}),
        ({"compile": {"enable": False, "backend": "eager"}}, None),
        ({"compile": {"enable": True, "backend": "magic"}}, None),
        ({"export": {"aot_compile": True}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_pt2_reaches_torch_compile(folder, monkeypatch, pt2, options):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model, **given: calls.append(given) or model)
    config = {"pt2": pt2}
    before = json.dumps(config)
    assert harness(folder, "net.pt", "net.py", config).predict_batch(ROWS) == ANSWERS
    assert calls == ([] if options is None else [options])
    assert json.dumps(config) == before


def test_compiled_models_answer_the_same(folder):
    config = {"pt2": {"compile": {"enable": True, "backend": "eager"}}}
    started = harness(folder, "net.pt", "net.py", config)
    assert isinstance(started.handler.model, torch._dynamo.eval_frame.OptimizedModule)
    assert started.predict_batch(ROWS) == ANSWERS


def test_an_unknown_backend_is_a_warning(folder, caplog):
    harness(folder, "net.pt", "net.py", {"pt2": {"compile": {"enable": True, "backend": "magic"}}})
    assert "magic is not a supported backend" in caplog.text


def test_options_torch_refuses_are_a_warning(folder, caplog):
    config = {"pt2": {"compile": {"enable": True, "backend": "inductor", "mode": "no-such-mode"}}}
    assert harness(folder, "net.pt", "net.py", config).predict_batch(ROWS) == ANSWERS
    assert "Proceeding without compilation" in caplog.text


@pytest.mark.parametrize(
    "pt2", [5, {"compile": {"backend": "eager"}}, {"compile": {"enable": "maybe"}}, {"compile": 1}]
)
def test_bad_pt2_is_a_load_error(folder, pt2):
    with pytest.raises(ModelLoadError, match="pt2"):
        harness(folder, "net.pt", "net.py", {"pt2": pt2})


class Recording(BaseHandler):
    """Skips super().__init__() and replaces every step, as handlers in the wild do."""

    def __init__(self):
        self.calls = []

    def initialize(self, context):
        self.calls.append("initialize")

    def preprocess(self, data):
        self.calls.append("preprocess")
        return data

    def inference(self, data, *args, **kwargs):
        self.calls.append("inference")
        return data

    def postprocess(self, data):
        self.calls.append("postprocess")
        return [row["body"] for row in data]

    def describe_handle(self):
        return {"calls": self.calls}

    def get_insights(self, tensor_data, inputs, target=0):
        return [{"inputs": inputs, "target": target}]


def test_steps_run_in_order_and_the_time_goes_out_as_a_metric(tmp_path):
    started = HandlerHarness(Recording, tmp_path)
    assert started.predict({"a": 1}) == {"a": 1}
    assert started.handler.calls == ["initialize", "preprocess", "inference", "postprocess"]
    (sample,) = started.metrics
    assert (sample.name, sample.unit, sample.request_id) == ("HandlerTime", "Milliseconds", "request-0")
    assert ("ModelName", "test") in sample.dimensions


def test_explanations_go_to_get_insights_with_the_target(tmp_path):
    started = HandlerHarness(Recording, tmp_path)
    assert started.explain({"x": 2}) == {"inputs": {"x": 2}, "target": 0}
    assert started.handler.explain is True
    raw = [{"data": "text", "target": bytearray(b"3")}]
    assert started.handler.explain_handle(None, raw) == [{"inputs": "text", "target": 3}]
    assert started.handler.explain_handle(None, ["bare"]) == [{"inputs": "bare", "target": 0}]
    with pytest.raises(PredictionException, match="not a whole number"):
        started.handler.explain_handle(None, [{"data": "text", "target": bytearray(b"x")}])


def test_a_handler_without_get_insights_refuses_explanations(folder):
    with pytest.raises(PredictionException, match="get_insights") as caught:
        harness(folder, "net.pt", "net.py").explain([1.0, 1.0])
    assert caught.value.error_code == 501


def test_describe(tmp_path, folder):
    assert HandlerHarness(Recording, tmp_path).describe() == {"calls": ["initialize"]}
    assert harness(folder, "net.pt", "net.py").describe() is None


class OwnNames(RowHandler):
    """Has attributes with the names that our own steps might have."""

    def __init__(self):
        super().__init__()
        self._device = self._header = self._answers = self._run_steps = "mine"

    def _load_model(self, path, extra):
        raise AssertionError("not asked for")


def test_a_subclass_is_free_in_its_own_names(folder):
    assert harness(folder, "net.pt", "net.py", handler=OwnNames).predict_batch(ROWS) == ANSWERS


def test_profile_times_each_step(folder):
    started = harness(folder, "net.pt", "net.py", {"handler": {"profile": True}})
    started.predict_batch(ROWS)
    names = ["ts_handler_preprocess", "ts_handler_inference", "ts_handler_postprocess", "HandlerTime"]
    assert [sample.name for sample in started.metrics] == names


def test_what_the_worker_reads_from_a_handler():
    from handlers.transformer.handler import TransformerHandler

    assert (BaseHandler.length_batching, BaseHandler.batch_explanations) == (False, False)
    assert (TransformerHandler.length_batching, TransformerHandler.batch_explanations) == (True, True)
