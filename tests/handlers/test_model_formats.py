"""Files that say themselves what to compute: ONNX, exported programs, and those that cannot be loaded yet."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from handlers.base import BaseHandler
from handlers.builtin import BUILTIN_HANDLERS
from handlers.errors import ModelLoadError
from handlers.testing import HandlerHarness

# scores = rows @ [[1, 3], [2, 4]] + [0.5, -0.5], made with onnx 1.23.2: helper.make_node("Gemm", ["rows", "w", "b"], …)
ONNX_MODEL = base64.b64decode(
    "CAgSADqDAQoaCgRyb3dzCgF3CgFiEgZzY29yZXMiBEdlbW0SAWcqGwgCCAIQAUIBd0oQAACAPwAAQEAAAABAAACAQCoRCAIQAUIBYkoIAAAA"
    "PwAAAL9aFwoEcm93cxIPCg0IARIJCgMSAW4KAggCYhkKBnNjb3JlcxIPCg0IARIJCgMSAW4KAggCQgQKABAR"
)
ROWS = [[1.0, 1.0], [0.0, 2.0]]
ANSWERS = [[3.5, 6.5], [4.5, 7.5]]
TRUSTED = {"handler": {"allow_pickle": True}}


class Rows(BaseHandler):
    def preprocess(self, data: Any) -> Any:
        return super().preprocess([row["body"] for row in data])


class OnnxRows(Rows):
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        return self.model.run(None, {"rows": data.numpy()})[0]


def harness(folder: Path, weights: str, config: Any = None, handler: type = Rows) -> HandlerHarness:
    return HandlerHarness(handler, folder, config, serialized_file=weights)


# --- ONNX ---


@pytest.fixture
def onnx_folder(tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(ONNX_MODEL)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    return tmp_path


def test_onnx_models_answer_through_a_session(onnx_folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    started = harness(onnx_folder, "net.onnx", handler=OnnxRows)
    assert started.predict_batch(ROWS) == ANSWERS
    options = started.handler.model.get_session_options()
    assert options.intra_op_num_threads == torch.get_num_threads()
    assert started.handler.model.get_providers() == ["CPUExecutionProvider"]


def test_pt2_leaves_an_onnx_model_as_it_is(onnx_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    config = {"pt2": {"compile": {"enable": True, "backend": "eager"}}}
    assert harness(onnx_folder, "net.onnx", config, OnnxRows).predict_batch(ROWS) == ANSWERS
    assert "Proceeding without compilation" in caplog.text


@pytest.mark.parametrize("weights", ["broken.onnx", "absent.onnx"])
def test_an_onnx_file_that_cannot_be_loaded_is_named(onnx_folder: Path, weights: str) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelLoadError, match=f"{weights} cannot be loaded by ONNX Runtime"):
        harness(onnx_folder, weights)


def test_a_missing_onnx_runtime_is_named(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(
        ModelLoadError, match=r"net.onnx needs ONNX Runtime: pip install 'modelserver\[onnx\]'"
    ) as error:
        harness(onnx_folder, "net.onnx")
    assert str(error.value).startswith("No model weights could be loaded")


# --- exported programs ---


@pytest.fixture(scope="module")
def exported_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    net = nn.Linear(2, 2).eval()
    net.load_state_dict({"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([0.5, -0.5])})
    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(net, (torch.ones(3, 2),), dynamic_shapes=(rows,))
    torch.export.save(program, folder / "net.pt2")
    (folder / "broken.pt2").write_bytes(b"no program")
    return folder


def test_exported_programs(exported_folder: Path) -> None:
    assert harness(exported_folder, "net.pt2", TRUSTED).predict_batch(ROWS) == ANSWERS
    compiled = {**TRUSTED, "pt2": {"compile": {"enable": True, "backend": "eager"}}}
    assert harness(exported_folder, "net.pt2", compiled).predict_batch(ROWS) == ANSWERS


def test_an_exported_program_needs_the_operators_word(exported_folder: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"net\.pt2: .* can run code .*allow_pickle: true"):
        harness(exported_folder, "net.pt2")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("broken.pt2", r"broken\.pt2 cannot be loaded as an exported program"),
        ("absent.pt2", r"absent\.pt2 is named in the manifest but is not in the archive"),
    ],
)
def test_an_exported_program_that_cannot_be_loaded_is_named(exported_folder: Path, weights: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        harness(exported_folder, weights, TRUSTED)


# --- not there yet ---


@pytest.mark.parametrize(
    ("pt2", "message"),
    [
        ({"export": {"aot_compile": True}}, r"net\.so: libraries compiled by AOTInductor cannot be loaded yet"),
        ({"export": {"aot_compile": "perhaps"}}, "aot_compile: ...}}: 'perhaps' is not allowed"),
        ({"export": {"aot_compile": False}}, "No model weights could be loaded"),
        (None, "No model weights could be loaded"),
    ],
)
@pytest.mark.parametrize("handler_section", [{}, TRUSTED])
def test_compiled_libraries_are_not_loaded(tmp_path: Path, pt2: Any, message: str, handler_section: Any) -> None:
    (tmp_path / "net.so").write_bytes(b"\x7fELF")
    with pytest.raises(ModelLoadError, match=message):
        harness(tmp_path, "net.so", {**handler_section, "pt2": pt2})


class OwnLibrary(Rows):
    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        self.asked_for = Path(model_so_path).name
        return nn.Identity()


def test_a_subclass_may_load_the_library_itself(tmp_path: Path) -> None:
    started = harness(tmp_path, "net.so", {"pt2": {"export": {"aot_compile": True}}}, OwnLibrary)
    assert started.handler.asked_for == "net.so"
    assert started.predict_batch(ROWS) == ROWS


@pytest.mark.parametrize("name", ["dali_image_classifier", "vllm_handler", "trt_llm_handler"])
def test_built_in_handlers_to_come_say_so(tmp_path: Path, name: str) -> None:
    assert name in BUILTIN_HANDLERS
    with pytest.raises(ModelLoadError, match=f"The handler {name} is not there yet"):
        HandlerHarness(name, tmp_path)
