"""Scripts made for torch-model-archiver: its import names, its API, its errors. Expected values are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from argparse import Namespace
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from archiver import compat
from archiver.compat import packaging

NAMES = """
from model_archiver import ModelArchiver, ModelArchiverConfig
from model_archiver import __version__
from model_archiver.model_packaging import generate_model_archive, package_model, ArgParser
from model_archiver.model_archiver_config import ModelArchiverConfig
from model_archiver.manifest_components.manifest import Manifest, RuntimeType
from model_archiver.manifest_components.model import Model
from model_archiver.model_packaging_utils import ModelExportUtils, archiving_options, model_handlers
from model_archiver.model_archiver_error import ModelArchiverError
import model_archiver.version
""".strip().splitlines()


@pytest.fixture(autouse=True)
def _activated() -> Any:
    compat.activate()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_archiver"]:
        del sys.modules[name]


@pytest.fixture
def handler(tmp_path: Path) -> str:
    (tmp_path / "handler.py").write_text("def handle(data, context): pass\n")
    return str(tmp_path / "handler.py")


def manifest_of(archive: Path) -> dict[str, Any]:
    with zipfile.ZipFile(archive) as opened:
        return json.loads(opened.read("MAR-INF/MANIFEST.json"))


@pytest.mark.parametrize("line", NAMES)
def test_every_name_can_be_imported(line: str) -> None:
    exec(line, {})


@pytest.mark.parametrize("before", ["", "import model_archiver.version; "])
def test_an_installed_one_does_no_harm(tmp_path: Path, before: str) -> None:
    (tmp_path / "model_archiver").mkdir()
    for module in ("__init__", "version"):
        (tmp_path / "model_archiver" / f"{module}.py").write_text("__version__ = 'the installed one'\n")
    script = (
        f"{before}import archiver.compat; archiver.compat.activate(); import sys\n"
        "from model_archiver import __version__, ModelArchiver; from model_archiver.version import __version__ as too\n"
        "print(__version__, too, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    answer = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout == "0.12.0 0.12.0 False\n"


def test_config_has_the_fields_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_archiver import ModelArchiverConfig

    monkeypatch.chdir(tmp_path)
    required = [each.name for each in fields(ModelArchiverConfig) if each.default is each.default_factory is MISSING]
    assert required == ["model_name", "handler", "version"]
    assert vars(ModelArchiverConfig("m", "h", "1")) == {
        "model_name": "m",
        "handler": "h",
        "version": "1",
        "serialized_file": None,
        "model_file": None,
        "extra_files": None,
        "runtime": "python",
        "export_path": str(tmp_path),
        "archive_format": "default",
        "force": False,
        "requirements_file": None,
        "config_file": None,
    }
    given = {**vars(ModelArchiverConfig("m", "h", "1")), "force": True, "config_file": "c.yaml"}
    assert vars(ModelArchiverConfig.from_args(Namespace(**given))) == given


def test_an_archive_is_made(tmp_path: Path, handler: str) -> None:
    from model_archiver import ModelArchiver, ModelArchiverConfig

    config = ModelArchiverConfig("m", handler, "2.5", export_path=str(tmp_path / "store"), runtime="python3")
    assert ModelArchiver.generate_model_archive(config) is None
    manifest = manifest_of(tmp_path / "store" / "m.mar")
    assert manifest["runtime"] == "python3"
    assert manifest["model"] == {"modelName": "m", "handler": "handler.py", "modelVersion": "2.5"}


def test_the_command_line_is_read_without_a_config(
    tmp_path: Path, handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from model_archiver.model_packaging import generate_model_archive

    words = ["--model-name", "m", "--handler", handler, "--version", "3", "--export", str(tmp_path), "--f"]
    monkeypatch.setattr(sys, "argv", ["torch-model-archiver", *words])
    (tmp_path / "m.mar").write_text("to be overwritten")
    generate_model_archive()
    assert manifest_of(tmp_path / "m.mar")["model"]["modelVersion"] == "3"


@pytest.mark.parametrize(("words", "status"), [(["--model-name", "m"], 2), (["--bogus"], 2), (["--help"], 0)])
def test_a_wrong_command_line_ends_the_program(words: list[str], status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_archiver.model_packaging import ArgParser

    monkeypatch.setattr(sys, "argv", ["torch-model-archiver", *words])
    with pytest.raises(SystemExit) as caught:
        ArgParser.export_model_args_parser()
    assert caught.value.code == status


def test_the_parser_can_be_replaced_in_tests(tmp_path: Path, handler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_archiver import ModelArchiverConfig
    from model_archiver.model_packaging import ArgParser, generate_model_archive

    config = ModelArchiverConfig("m", handler, "1", export_path=str(tmp_path))
    monkeypatch.setattr(ArgParser, "export_model_args_parser", lambda: config)
    generate_model_archive()
    assert (tmp_path / "m.mar").is_file()


def test_a_manifest_of_the_callers(tmp_path: Path, handler: str) -> None:
    from model_archiver import ModelArchiverConfig
    from model_archiver.manifest_components.manifest import Manifest, RuntimeType
    from model_archiver.manifest_components.model import Model
    from model_archiver.model_packaging import package_model
    from model_archiver.model_packaging_utils import ModelExportUtils

    config = ModelArchiverConfig("m", handler, "1", export_path=str(tmp_path))
    generated = json.loads(ModelExportUtils.generate_manifest_json(config))
    assert generated["model"] == {"modelName": "m", "handler": "handler.py", "modelVersion": "1"}

    manifest = Manifest(RuntimeType.PYTHON.value, Model("other", "w.pt", "h", model_version="9"))
    assert manifest.to_dict().pop("createdOn")
    assert {key: value for key, value in manifest.to_dict().items() if key != "createdOn"} == {
        "runtime": "python",
        "model": {"modelName": "other", "serializedFile": "w.pt", "handler": "h", "modelVersion": "9"},
        "archiverVersion": "0.12.0",
    }
    package_model(config, str(manifest))
    assert manifest_of(tmp_path / "m.mar") == manifest.to_dict()


def test_names_and_formats() -> None:
    from model_archiver.manifest_components.manifest import RuntimeType
    from model_archiver.model_packaging_utils import archiving_options, model_handlers

    assert [runtime.value for runtime in RuntimeType] == ["python", "python3", "LSP"]
    assert set(archiving_options) == {"tgz", "no-archive", "zip-store", "default"}
    assert {"base_handler", "text_classifier", "image_classifier", "vllm_handler"} <= set(model_handlers)


def test_find_unique() -> None:
    from model_archiver.model_archiver_error import ModelArchiverError
    from model_archiver.model_packaging_utils import ModelExportUtils

    assert ModelExportUtils.find_unique(["a.txt", "b.pt"], ".pt") == "b.pt"
    assert ModelExportUtils.find_unique(["a.txt"], ".pt") is None
    with pytest.raises(ModelArchiverError, match=r"expects only one \.pt file in the folder\. Found 2 files"):
        ModelExportUtils.find_unique(["a.pt", "b.pt"], ".pt")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"runtime": "java"}, ValueError, "'java' is not a valid RuntimeType"),
        ({"model_name": "a b"}, "ModelArchiverError", "Model name contains special characters.\nThe allowed regular"),
        ({"export_path": "{handler}"}, "ModelArchiverError", "Given export-path {handler} is not a directory. Point"),
        (
            {"model_name": "taken"},
            "ModelArchiverError",
            "{folder}/taken.mar already exists.\nPlease specify --force/-f",
        ),
        ({"extra_files": "absent.txt"}, FileNotFoundError, "File does not exist: absent.txt"),
        ({"serialized_file": "w.pt"}, FileNotFoundError, "[Errno 2] No such file or directory: 'w.pt'"),
        ({"handler": "absent"}, FileNotFoundError, "[Errno 2] No such file or directory: 'absent.py'"),
    ],
)
def test_errors_are_those_of_torch_model_archiver(
    tmp_path: Path,
    handler: str,
    changes: dict[str, str],
    error: Any,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from model_archiver import ModelArchiver, ModelArchiverConfig
    from model_archiver.model_archiver_error import ModelArchiverError

    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.mar").write_text("")
    given = {"model_name": "m", "handler": handler, "version": "1", "export_path": str(tmp_path), **changes}
    config = ModelArchiverConfig(**{key: value.format(handler=handler) for key, value in given.items()})
    expected = ModelArchiverError if error == "ModelArchiverError" else error
    with pytest.raises(expected) as caught:
        ModelArchiver.generate_model_archive(config)
    assert str(caught.value).startswith(message.format(handler=handler, folder=tmp_path))
    if expected is ModelArchiverError:
        [record] = [record for record in caplog.records if record.name == packaging.__name__]
        assert (record.levelname, record.getMessage()) == ("ERROR", str(caught.value))
