"""Archives of every kind: traces, compiled models, odd weights, missing pieces."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import sys
import types

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformer_samples import CONTEXT, QUESTION, SENTENCES
from transformers import AutoModelForQuestionAnswering, AutoModelForSequenceClassification, AutoTokenizer

from handlers.errors import ModelLoadError, PredictionException
from handlers.transformer import loading
from handlers.transformer.loading import can_spread
from handlers.transformer.network import compiled_lengths

MODE = "sequence_classification"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@pytest.fixture
def folder(model_dirs):
    return model_dirs("bert", "ForSequenceClassification", num_labels=3)


class Traceable(nn.Module):
    """Two tensors in, a tuple out, as the download script traces."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids, attention_mask=attention_mask, return_dict=False)


def traced(auto_class, source, target, max_length):
    model = auto_class.from_pretrained(source).eval()
    example = AutoTokenizer.from_pretrained(source)(
        "a dummy text", padding="max_length", max_length=max_length, return_tensors="pt"
    )
    trace = torch.jit.trace(Traceable(model), (example["input_ids"], example["attention_mask"]))
    torch.jit.save(trace, target / "traced_model.pt")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_a_trace_answers_like_the_model_and_refuses_explanations(architecture, model_dirs, archive, serve, caplog):
    source = model_dirs(architecture, "ForSequenceClassification", num_labels=3)
    # No config.json in the archive: the original's recipe for traces does without.
    labels = {"0": "bad", "1": "neutral", "2": "good"}
    target = archive(source, {"index_to_name.json": labels}, without=("config.json", "model.safetensors"))
    (target / "config.json").write_text((source / "config.json").read_text())
    traced(AutoModelForSequenceClassification, source, target, 32)
    settings = {"mode": MODE, "output": "scores", "max_length": 32}
    config = {"pt2": {"compile": {"enable": True}}}
    trace = serve(target, config=config, weights="traced_model.pt", save_mode="torchscript", **settings)
    assert "pt2: compile has no effect on a TorchScript trace" in caplog.text
    answers = trace.predict_batch(SENTENCES)
    expected = serve(source, **settings).predict_batch(SENTENCES)
    for answer, other in zip(answers, expected, strict=True):
        assert list(answer["probabilities"]) == list(labels.values())
        scores = list(other["probabilities"].values())
        assert list(answer["probabilities"].values()) == pytest.approx(scores, abs=1e-4)
    with pytest.raises(PredictionException, match="TorchScript trace cannot be explained") as caught:
        trace.explain(SENTENCES[0])
    assert caught.value.error_code == 400


@pytest.mark.filterwarnings("ignore")
def test_a_traced_question_answerer_returns_two_tensors(model_dirs, archive, serve):
    source = model_dirs("distilbert", "ForQuestionAnswering")
    target = archive(source)
    traced(AutoModelForQuestionAnswering, source, target, 48)
    settings = {"mode": "question_answering", "max_length": 48}
    trace = serve(target, weights="traced_model.pt", save_mode="torchscript", **settings)
    pairs = [{"question": QUESTION, "context": CONTEXT}, {"question": "Who?", "context": SENTENCES[0]}]
    assert trace.predict_batch(pairs) == serve(source, **settings).predict_batch(pairs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_needs_max_length_and_a_file(folder, archive, serve):
    target = archive(folder)
    with pytest.raises(ModelLoadError, match="cannot be loaded as TorchScript"):
        serve(target, mode=MODE, save_mode="torchscript", max_length=8)
    with pytest.raises(ModelLoadError, match="--serialized-file"):
        serve(target, weights=None, mode=MODE, save_mode="torchscript", max_length=8)
    torch.jit.save(torch.jit.script(nn.Identity()), target / "traced_model.pt")
    with pytest.raises(ModelLoadError, match="max_length is missing"):
        serve(target, weights="traced_model.pt", mode=MODE, save_mode="torchscript")


@pytest.mark.filterwarnings("ignore")
def test_neuron_traces_get_batches_of_their_fixed_size(folder, archive, serve, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_neuronx", types.ModuleType("torch_neuronx"))
    target = archive(folder)
    traced(AutoModelForSequenceClassification, folder, target, 32)
    settings = {"mode": MODE, "output": "scores", "max_length": 32}
    neuron = serve(
        target, weights="traced_model.pt", save_mode="torchscript", hardware="neuronx", batch_size="3", **settings
    )
    rows = []
    network = neuron.handler.task.network
    monkeypatch.setattr(
        type(network),
        "eager",
        lambda self, inputs: rows.append(len(inputs["input_ids"])) or self.module(*inputs.values()),
    )
    answers = neuron.predict_batch(SENTENCES)
    monkeypatch.undo()
    assert rows == [3, 3]
    for answer, other in zip(answers, serve(folder, **settings).predict_batch(SENTENCES), strict=True):
        assert answer["score"] == pytest.approx(other["score"], abs=1e-4)


@pytest.mark.parametrize("hardware", ["neuron", "neuronx"])
def test_neuron_without_its_package_says_so(folder, serve, hardware):
    with pytest.raises(ModelLoadError, match=f"torch_{hardware}, which is not installed here"):
        serve(folder, mode=MODE, save_mode="torchscript", hardware=hardware, max_length=8)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_answers_the_same_and_is_explained_uncompiled(folder, serve, backend):
    config = {"pt2": {"compile": {"enable": True, "backend": backend}}}
    # Compiled models are not packed; packed ones differ in the last digit.
    settings = {"mode": MODE, "output": "scores", "max_length": 32, "pack_weights": False}
    plain, compiled = serve(folder, **settings), serve(folder, config=config, **settings)
    network = compiled.handler.task.network
    assert network.compiled is compiled.handler.model is not network.module
    shapes = []
    network.module.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    for batch in (SENTENCES, SENTENCES[1:2], ["word " * 100]):
        for answer, other in zip(compiled.predict_batch(batch), plain.predict_batch(batch), strict=True):
            assert answer["score"] == pytest.approx(other["score"], abs=1e-4)
    (encoded,) = compiled.handler.task.encode(compiled.handler.preprocess([{"body": "No."}]).items)
    assert encoded.inputs["input_ids"].shape == (1, 8)
    request = {"text": SENTENCES[0], "target": 1}
    assert compiled.explain(request) == plain.explain(request)
    after = compiled.predict(SENTENCES[0])
    assert after["score"] == pytest.approx(plain.predict(SENTENCES[0])["score"], abs=1e-4)


def test_compiled_graphs_stay_within_torchs_limit(folder, serve):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    config = {"pt2": {"compile": {"enable": True, "backend": "eager", "fullgraph": True}}}
    harness = serve(folder, config=config, mode=MODE, max_length=64)
    for rows, words in itertools.product((1, 2, 3, 5), (1, 10, 20, 100)):
        harness.predict_batch(["day " * words] * rows)
    assert counters["stats"]["unique_graphs"] == 2 * len(compiled_lengths(64)) == 8


def test_compiled_lengths():
    assert compiled_lengths(512) == (64, 128, 256, 512)
    assert compiled_lengths(150) == (24, 40, 80, 150)
    assert compiled_lengths(8) == (8,)
    assert compiled_lengths(5) == (5,)


def test_a_backend_that_fails_is_left_out_with_a_warning(folder, serve, caplog, monkeypatch):
    def broken(model, **options):
        def fail(*args, **kwargs):
            raise RuntimeError("no compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    harness = serve(folder, mode=MODE, config={"pt2": {"compile": {"enable": True}}})
    assert "no compiler here" in caplog.text
    assert harness.predict(SENTENCES[0]).startswith("LABEL_")


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth", "pytorch_model.bin"])
def test_weights_of_any_name_and_format(folder, archive, serve, name):
    target = archive(folder, without=("model.safetensors",))
    state = load_file(folder / "model.safetensors")
    if name.endswith(".safetensors"):
        (target / name).write_bytes((folder / "model.safetensors").read_bytes())
    else:
        torch.save(state, target / name)
    answer = serve(target, weights=name, mode=MODE, output="scores").predict(SENTENCES[0])
    assert answer == serve(folder, mode=MODE, output="scores").predict(SENTENCES[0])


def test_the_weights_of_the_manifest_win(folder, archive, serve):
    target = archive(folder)
    state = {key: torch.zeros_like(value) for key, value in load_file(folder / "model.safetensors").items()}
    torch.save(state, target / "pytorch_model.bin")
    answer = serve(target, weights="pytorch_model.bin", mode=MODE, output="scores").predict(SENTENCES[0])
    assert answer["score"] == pytest.approx(1 / 3)


def test_do_lower_case_reaches_the_tokenizer(folder, serve):
    words = {
        flag: serve(folder, mode=MODE, do_lower_case=flag).explain("FINE day")["words"] for flag in (True, "false")
    }
    assert words[True] == ["[CLS]", "fine", "day", "[SEP]"]
    assert words["false"] != words[True]


@pytest.mark.parametrize("without", [("config.json",), ("model.safetensors",)])
def test_missing_files_are_named(folder, archive, serve, without):
    with pytest.raises(ModelLoadError, match=without[0]):
        serve(archive(folder, without=without), mode=MODE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{broken"),
        ("config.json", "[]"),
        ("config.json", '{"model_type": "no-such-model"}'),
        ("config.json", '{"architectures": ["X"]}'),
        ("model.safetensors", "no weights"),
    ],
)
def test_broken_files_are_load_errors_in_one_line(folder, archive, serve, name, content):
    with pytest.raises(ModelLoadError) as caught:
        serve(archive(folder, {name: content}), mode=MODE)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_tokenizer_at_all_names_the_files_to_add(folder, archive, serve):
    target = archive(folder, without=TOKENIZER_FILES)
    with pytest.raises(ModelLoadError, match=r"model_name is not set: add tokenizer.json .* --extra-files"):
        serve(target, mode=MODE)


def test_no_tokenizer_and_no_hub_names_the_files_to_add(folder, archive, serve, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable was read at import
    target = archive(folder, without=TOKENIZER_FILES)
    with pytest.raises(ModelLoadError, match=r"no-such/model cannot be fetched: add tokenizer.json") as caught:
        serve(target, mode=MODE, model_name="no-such/model")
    assert "\n" not in str(caught.value)


def test_a_broken_tokenizer_is_named(folder, archive, serve):
    target = archive(folder, {"merges.txt": "x"}, without=TOKENIZER_FILES)
    with pytest.raises(ModelLoadError, match=r"merges.txt"):
        serve(target, mode=MODE)


def test_remote_code_needs_the_operators_word(folder, archive, serve):
    config = json.loads((folder / "config.json").read_text())
    target = archive(folder, {"config.json": {**config, "auto_map": {"AutoModel": "modeling.Evil"}}})
    with pytest.raises(ModelLoadError, match="trust_remote_code: true"):
        serve(target, mode=MODE)


def test_model_parallel_on_one_device_goes_on_with_a_message(folder, serve, caplog):
    harness = serve(folder, mode=MODE, model_parallel=True)
    assert "model_parallel: true needs several GPUs" in caplog.text
    assert harness.predict(SENTENCES[0])


def pretend_two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_model_parallel_without_accelerate_says_what_to_install(tmp_path, monkeypatch):
    pretend_two_gpus(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"pip install modelserver\[accelerate\]"):
        can_spread(torch.device("cuda:0"))


def test_a_model_spread_by_accelerate_answers_and_explains_the_same(folder, serve, monkeypatch):
    monkeypatch.setattr(loading, "can_spread", lambda device: True)
    settings = {"mode": MODE, "output": "scores"}
    spread, plain = serve(folder, model_parallel=True, **settings), serve(folder, **settings)
    assert spread.predict_batch(SENTENCES) == plain.predict_batch(SENTENCES)
    assert spread.explain(SENTENCES[0]) == plain.explain(SENTENCES[0])


def test_better_transformer_selects_sdpa(folder, serve, caplog):
    caplog.set_level("INFO")
    harness = serve(folder, mode=MODE, BetterTransformer="true")
    assert harness.handler.task.network.config._attn_implementation == "sdpa"
    assert "BetterTransformer" in caplog.text


def test_inductor_compiles_on_the_cpu(folder, serve):
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    config = {"pt2": {"compile": {"enable": True, "backend": "inductor"}}}
    settings = {"mode": MODE, "output": "scores", "max_length": 16, "pack_weights": False}
    compiled, plain = serve(folder, config=config, **settings), serve(folder, **settings)
    assert compiled.handler.task.network.compiled is not None
    for batch in (SENTENCES, SENTENCES[:1], SENTENCES[1:]):
        for answer, other in zip(compiled.predict_batch(batch), plain.predict_batch(batch), strict=True):
            assert answer["score"] == pytest.approx(other["score"], abs=1e-4)
    assert compiled.explain(SENTENCES[0]) == plain.explain(SENTENCES[0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_gpu_answers_and_explanations_equal_those_of_the_cpu(architecture, model_dirs):
    from handlers.testing import HandlerHarness

    folder = model_dirs(architecture, "ForSequenceClassification", num_labels=3)
    config = {"handler": {"mode": MODE, "output": "scores"}}
    cpu, gpu = (
        HandlerHarness("transformer_handler", folder, config, serialized_file="model.safetensors", gpu=gpu)
        for gpu in (None, 0)
    )
    assert next(gpu.handler.task.network.module.parameters()).is_cuda
    for answer, other in zip(gpu.predict_batch(SENTENCES), cpu.predict_batch(SENTENCES), strict=True):
        assert answer["score"] == pytest.approx(other["score"], abs=1e-4)
    for answer, other in zip(gpu.explain_batch(SENTENCES), cpu.explain_batch(SENTENCES), strict=True):
        assert answer["importances"] == pytest.approx(other["importances"], abs=1e-3)
