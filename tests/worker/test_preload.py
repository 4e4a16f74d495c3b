"""What the template imports beforehand for an archive: libraries of a fixed list, chosen by the archive's files."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from model_server.worker.preload import import_quietly, modules_for, modules_of_archive


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import json\n\n\ndef handle(data, context):\n    return data\n", []),
        ("import torch\n", ["torch"]),
        ("def load():\n    from torch import nn\n", ["torch"]),
        ("from ts.torch_handler.base_handler import BaseHandler\n", ["torch", "handlers.base"]),
        ("import numpy as np\nfrom safetensors.torch import load_file\n", ["numpy", "safetensors.torch"]),
        ("import torchlike\nimportant = 'import torch'\n# import torch\n", []),
        ("import os, torch as t,  numpy.linalg, sys  # import tokenizers\n", ["torch", "numpy"]),
        ("import os; x = 1\nimport subprocess, torch_things\n", []),
    ],
)
def test_the_handler_s_file_says_what_it_imports(tmp_path: Path, source: str, expected: list[str]) -> None:
    (tmp_path / "handler.py").write_text(source)
    assert list(modules_for("handler.py", tmp_path)) == expected


def test_other_files_of_the_archive_count_as_well(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("from model import Net\n")
    (tmp_path / "model.py").write_text("import torch\n")
    assert modules_for("handler.py", tmp_path) == ("torch",)


def test_a_built_in_handler_is_imported_with_its_libraries(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    modules = modules_for("transformer_handler", tmp_path)
    assert modules[0] == "handlers.transformer.handler"
    assert "torch" in modules
    assert modules[-1] == "transformers.models.bert.modeling_bert"
    assert modules_for("image_classifier", tmp_path) == ("handlers.image_classifier",)


@pytest.mark.parametrize("model_type", ["../../evil", "os; import x", "", "a" * 65, 7, None, "bert.x"])
def test_no_module_of_another_name_can_be_asked_for(tmp_path: Path, model_type: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for name in modules_for("transformer_handler", tmp_path):
        assert name.partition(".")[0] in ("handlers", "torch", "transformers")


def test_files_that_are_odd_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\nimport torch\n")
    (tmp_path / "config.json").write_text("[not json")
    assert modules_for("pipe.py", tmp_path) == ("torch",)
    assert modules_for("handler.py", tmp_path / "missing") == ()


def packed(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return target


def test_an_archive_is_looked_into_where_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "sub" / "other.py").write_text("import tokenizers\n")
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": {"handler": "transformer_handler"}}))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "helper.py").write_text("import safetensors\n")
    expected = modules_for("transformer_handler", folder)
    assert {"safetensors.torch", "transformers.models.bert.modeling_bert"} < set(expected)
    assert "tokenizers" not in expected
    assert modules_of_archive(folder) == expected
    assert modules_of_archive(packed(folder, tmp_path / "model.mar")) == expected


def test_an_archive_that_cannot_be_looked_into_says_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mar")
    (tmp_path / "junk.mar").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "handler.py").write_text("import torch\n")
    packed(tmp_path / "model", tmp_path / "no_manifest.mar")
    (tmp_path / "model" / "MAR-INF").mkdir()
    (tmp_path / "model" / "MAR-INF" / "MANIFEST.json").write_text("[1]")
    packed(tmp_path / "model", tmp_path / "odd_manifest.mar")
    for name in ("pipe.mar", "junk.mar", "no_manifest.mar", "odd_manifest.mar", "model", "missing.mar"):
        assert modules_of_archive(tmp_path / name) == ()


def test_what_cannot_be_imported_is_the_worker_s_concern() -> None:
    assert import_quietly("json")
    assert not import_quietly("transformers.models.nothing.modeling_nothing")
