"""Small things that handlers made for TorchServe import. Expected values: TorchServe's documented behaviour."""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from handlers.base import BaseHandler
from handlers.compile import compile_options
from handlers.deprecation import deprecated
from handlers.errors import ModelLoadError
from handlers.markup import CLEANUP_REGEX
from handlers.mock_context import MockContext
from handlers.model_files import copy_files, download_model
from handlers.modules import classes_defined_in, import_class
from handlers.not_yet import get_ds_engine, get_pipeline_driver
from handlers.pt2_backend import PT2Backend, check_valid_pt2_backend
from handlers.yaml_config import get_yaml_config

# --- classes by name ---


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("collections.OrderedDict", None),
        ("OrderedDict", "collections"),
        ("collections.OrderedDict", ""),
    ],
)
def test_import_class(name: str, prefix: str | None) -> None:
    assert import_class(name, prefix) is OrderedDict


def test_import_class_below_a_prefix() -> None:
    assert import_class("abc.Mapping", "collections") is sys.modules["collections.abc"].Mapping


@pytest.mark.parametrize(
    ("name", "prefix", "message"),
    [
        ("", None, "class name is not defined"),
        (None, "collections", "class name is not defined"),
        ("collections.", None, "class name is not defined"),
        ("OrderedDict", None, "module name is not defined."),
        ("collections.Absent", None, "class:Absent not found in module:collections."),
        ("Absent", "collections.abc", "class:Absent not found in module:collections.abc."),
        ("no_such_package.Thing", None, "No module named 'no_such_package'"),
    ],
)
def test_import_class_says_what_is_missing(name: Any, prefix: str | None, message: str) -> None:
    with pytest.raises(ImportError) as caught:
        import_class(name, prefix)
    assert str(caught.value).startswith(message)


def test_classes_of_a_module_by_name() -> None:
    module = ModuleType("made")
    exec("from collections import OrderedDict\nclass B(dict):\n  class Inner: pass\nclass A: pass\n", vars(module))
    assert [cls.__name__ for cls in classes_defined_in(module)] == ["A", "B"]
    assert [cls.__name__ for cls in classes_defined_in(module, dict)] == ["B"]


# --- files and texts ---


@pytest.mark.parametrize(("text", "expected"), [("a: [1, x]\n", {"a": [1, "x"]}), ("", None), ("- 1\n", [1])])
def test_get_yaml_config(tmp_path: Path, text: str, expected: Any) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert get_yaml_config(str(tmp_path / "c.yaml")) == expected


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("!!python/object/apply:os.getpid []\n")
    with pytest.raises(yaml.YAMLError):
        get_yaml_config(tmp_path / "c.yaml")


def test_markup_is_cut_out() -> None:
    text = '<p class="x">Tom &amp; Jerry</p>&nbsp;1 &lt; 2 &#39;quoted&#x27; a < b &AMP'
    assert CLEANUP_REGEX.sub("", text) == "Tom  Jerry1  2 quoted a < b &AMP"


def test_copy_files(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.txt").write_text("a")
    copy_files(tmp_path / "from", tmp_path / "to", {"a.txt": "sub/b.txt"})
    assert (tmp_path / "to" / "sub" / "b.txt").read_text() == "a"


def test_download_model(tmp_path: Path) -> None:
    source = tmp_path / "weights.pt"
    source.write_bytes(b"first")
    url = source.as_uri()
    assert download_model(url, tmp_path / "model") == tmp_path / "model" / "weights.pt"
    source.write_bytes(b"second")
    assert download_model(url, tmp_path / "model").read_bytes() == b"first"


@pytest.mark.parametrize("url", ["https://host", "ftp://host/x.pt", "x.pt", ""])
def test_download_needs_the_url_of_a_file(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL of a file"):
        download_model(url, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        download_model((tmp_path / "absent.pt").as_uri(), tmp_path / "model")
    assert list((tmp_path / "model").iterdir()) == []


# --- warnings, backends, what is not there yet ---


def test_deprecated_warns_and_calls() -> None:
    @deprecated(version="2.0", replacement="there.add")
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert add(1, b=2) == 3
    [warning] = caught
    assert (str(warning.message), warning.category) == (
        "add is deprecated in 2.0 and moved to there.add",
        PendingDeprecationWarning,
    )
    assert (warning.filename, add.__doc__, add.__name__) == (__file__, "Adds.", "add")


def test_deprecated_without_replacement() -> None:
    function = deprecated("2.0", klass=FutureWarning)(len)
    with pytest.warns(FutureWarning, match=r"^len is deprecated in 2\.0$"):
        assert function("ab") == 2


def test_backends() -> None:
    names = """eager aot_eager inductor nvfuser aot_nvfuser aot_cudagraphs ofi fx2trt onnxrt ipex torchxla_trace_once
        openvino tensorrt hpu_backend"""
    assert [backend.value for backend in PT2Backend] == names.split()
    assert all(check_valid_pt2_backend(name) for name in names.split())
    assert not check_valid_pt2_backend("INDUCTOR")
    assert compile_options({"compile": {"enable": True, "backend": "bogus"}}) is None


def test_engines_of_other_libraries_say_what_there_is_instead() -> None:
    with pytest.raises(ModelLoadError, match="PiPPy are not there yet; transformer_handler with model_parallel"):
        get_pipeline_driver(None, 2, MockContext())  # type: ignore[arg-type]
    with pytest.raises(ModelLoadError, match="DeepSpeed are not there yet"):
        get_ds_engine(None, MockContext())  # type: ignore[arg-type]


# --- the context of tests made for TorchServe ---

ARGMAX = """
import torch
class ArgmaxModel(torch.nn.Module):
    def forward(self, rows):
        return rows.argmax(dim=1)
"""


def test_a_handler_under_a_mock_context(tmp_path: Path) -> None:
    """The values are those of TorchServe's own unit test of the base handler."""
    (tmp_path / "model.py").write_text(ARGMAX)
    context = MockContext(model_pt_file=None, model_dir=tmp_path.as_posix(), model_file="model.py")
    handler = BaseHandler()
    handler.initialize(context)  # type: ignore[arg-type]
    assert handler.handle([[1.0, 2.0], [4.0, 3.0]], context) == [1, 0]  # type: ignore[arg-type]
    [metric] = context.metrics.store
    assert metric.name == "HandlerTime"


def test_mock_context(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("handler: {a: 1}\n")
    context = MockContext("m.pt", tmp_path, "m.py", model_name="n", model_yaml_config_file="c.yaml")
    assert context.manifest == {"model": {"serializedFile": "m.pt", "modelFile": "m.py", "modelName": "n"}}
    assert context.system_properties["model_dir"] == str(tmp_path)
    assert context.model_yaml_config == {"handler": {"a": 1}}
    context.explain = True
    assert [context.get_request_header(index, "explain") for index in range(3)] == [False, True, True]
