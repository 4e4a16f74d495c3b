"""Finding the entry point of an archive. Expected behaviour: TorchServe's contract, and our rule that nothing outside
the archive can be named."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from handlers import compat
from handlers.context import Context
from handlers.errors import ModelLoadError
from handlers.metrics import MetricsRecorder
from model_server.wire.messages import Capabilities, Load
from model_server.worker.entry_point import EntryPoint, build_context, load_entry_point

pytestmark = pytest.mark.usefixtures("restored_interpreter")

FUNCTION = """
calls = []
def handle(data, context):
    calls.append((data, context))
    return None if data is None else ["handle"] * len(data)
def predict(data, context):
    return None if data is None else ["predict"] * len(data)
"""
CLASS = """
class Service:
    def initialize(self, context):
        self.name = context.model_name
    def handle(self, data, context):
        return [self.name] * len(data)
"""


def context_for(folder: Path, **fields: Any) -> Context:
    load = Load("answer", str(folder), "unused", **{"batch_size": 4, **fields})
    return build_context(load, MetricsRecorder("answer", lambda sample: None))


def entry_of(folder: Path, handler: str, envelope: str | None = None) -> EntryPoint:
    return load_entry_point(handler, envelope, context_for(folder))


def ask(folder: Path, handler: str, rows: list[Any] | None = None) -> Any:
    context = context_for(folder)
    entry = load_entry_point(handler, None, context)
    entry.initialize(context)
    return entry.handle([{}] if rows is None else rows, context)


# --- forms ---


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        ("service", "handle"),
        ("service.py", "handle"),
        ("service:handle", "handle"),
        ("service:predict", "predict"),
        ("service.py:predict", "predict"),
    ],
)
def test_function(archive: Any, handler: str, answer: str) -> None:
    assert ask(archive({"service.py": FUNCTION}), handler, [{}, {}]) == [answer, answer]


def test_function_is_initialised_with_none_for_data(archive: Any) -> None:
    context = context_for(archive({"service.py": FUNCTION}))
    load_entry_point("service", None, context).initialize(context)
    assert sys.modules["service"].calls == [(None, context)]


@pytest.mark.parametrize("handler", ["service", "service.py", "service:no_such_function"])
def test_class(archive: Any, handler: str) -> None:
    assert ask(archive({"service.py": CLASS}), handler) == ["answer"]


def test_function_wins_over_a_class_beside_it(archive: Any) -> None:
    assert ask(archive({"service.py": FUNCTION + CLASS}), "service") == ["handle"]


def test_handle_may_be_a_callable_made_in_init(archive: Any) -> None:
    source = """
class Service:
    def __init__(self):
        self.handle = lambda data, context: ["made in init"]
    def initialize(self, context):
        pass
"""
    assert ask(archive({"service.py": source}), "service") == ["made in init"]


def test_handle_may_be_replaced_in_initialize(archive: Any) -> None:
    source = CLASS.replace("self.name =", "self.handle = lambda data, context: ['wrapped']; self.name =")
    assert ask(archive({"service.py": source}), "service") == ["wrapped"]


def test_imported_and_nested_classes_do_not_count(archive: Any) -> None:
    source = f"from collections import OrderedDict\nfrom helper import Helper\n{CLASS}\n    class Nested: pass\n"
    folder = archive({"service.py": source, "helper.py": "class Helper: pass\n"})
    assert ask(folder, "service") == ["answer"]


def test_among_several_classes_the_base_handler_is_meant(archive: Any) -> None:
    source = f"from base import BaseHandler\nclass Helper: pass\n{CLASS.replace('Service:', 'Service(BaseHandler):')}"
    assert ask(archive({"service.py": source, "base.py": "class BaseHandler: pass\n"}), "service") == ["answer"]


@pytest.mark.parametrize(
    ("source", "listed"),
    [
        ("class A: pass\nclass B: pass\n", "['A', 'B']"),
        ("from enum import Enum\nclass A(Enum): X = 1\nclass B: pass\n", "['A', 'B']"),
        ("x = 1\n", "[]"),
        ("", "[]"),
    ],
)
def test_ambiguous_and_empty_modules_say_what_was_expected(archive: Any, source: str, listed: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        entry_of(archive({"service.py": source}), "service")
    expected = f"Expected only one class in custom service code or a function entry point {listed}"
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("method", ["handle", "initialize"])
def test_class_must_have_both_methods(archive: Any, method: str) -> None:
    source = CLASS.replace(f"def {method}", "def other")
    with pytest.raises(ModelLoadError, match=f"Expect {method} method in class Service"):
        entry_of(archive({"service.py": source}), "service")


def test_file_name_need_not_be_an_identifier(archive: Any) -> None:
    folder = archive({"my-service 2.py": FUNCTION})
    assert ask(folder, "my-service 2.py:predict") == ["predict"]
    assert ask(folder, "my-service 2") == ["handle"]


# --- failures ---


def test_syntax_error_names_file_and_line(archive: Any) -> None:
    with pytest.raises(SyntaxError) as caught:
        entry_of(archive({"service.py": "x = 1\ndef handle(:\n"}), "service")
    assert (Path(caught.value.filename or "").name, caught.value.lineno) == ("service.py", 2)


def test_a_missing_dependency_is_the_error_and_not_a_second_one(archive: Any) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_library'$"):
        entry_of(archive({"service.py": "import no_such_library\n"}), "service")


@pytest.mark.parametrize("raised", ["ValueError('at import')", "SystemExit(4)"])
def test_what_the_module_raises_comes_through(archive: Any, raised: str) -> None:
    with pytest.raises((ValueError, SystemExit), match=r"at import|4"):
        entry_of(archive({"service.py": f"raise {raised}\n"}), "service")


def test_unknown_name_lists_what_there_is(archive: Any) -> None:
    with pytest.raises(ModelLoadError) as caught:
        entry_of(archive({"service.py": FUNCTION}), "sevrice:handle")
    for part in ("'sevrice:handle'", "sevrice.py", "base_handler", "transformer_handler"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "handler",
    ["os:system", "os", "subprocess:run", "builtins:exec", "json.py", "os.path:join", "", ":", "base_handler:x"],
)
def test_installed_modules_are_no_handlers(archive: Any, handler: str) -> None:
    with pytest.raises(ModelLoadError, match="neither a file"):
        entry_of(archive({"service.py": FUNCTION}), handler)


@pytest.mark.parametrize("place", ["{outside}/evil.py", "{outside}/evil:handle", "../evil.py", "sub/../../evil"])
def test_files_outside_the_archive_are_no_handlers(archive: Any, tmp_path: Path, place: str) -> None:
    folder = archive({"service.py": FUNCTION, "sub/x.txt": ""})
    (tmp_path / "evil.py").write_text("raise AssertionError('was run')")
    with pytest.raises(ModelLoadError):
        entry_of(folder, place.format(outside=tmp_path))


def test_folder_inside_the_archive(archive: Any) -> None:
    assert ask(archive({"code/service.py": FUNCTION}), "code/service.py:predict") == ["predict"]


# --- names of the archive against names of others ---


def test_file_of_the_archive_wins_over_a_built_in_handler(archive: Any) -> None:
    assert ask(archive({"base_handler.py": FUNCTION}), "base_handler") == ["handle"]


def test_built_in_handler(archive: Any) -> None:
    from handlers.base import BaseHandler

    assert isinstance(entry_of(archive({"weights.bin": b""}), "base_handler").owner, BaseHandler)


def test_handler_that_torchserve_finds_at_registration(archive: Any) -> None:
    from handlers.vision import VisionHandler

    assert type(entry_of(archive({"weights.bin": b""}), "vision_handler").owner) is VisionHandler
    assert ask(archive({"vision_handler.py": FUNCTION}), "vision_handler") == ["handle"]


@pytest.mark.parametrize("name", ["handlers", "json", "yaml", "model_server"])
def test_entry_file_may_have_any_name(archive: Any, name: str) -> None:
    assert ask(archive({f"{name}.py": FUNCTION}), name) == ["handle"]
    assert sys.modules[name].calls


@pytest.mark.parametrize("helper", ["handlers.py", "handlers/__init__.py"])
def test_handlers_of_the_archive_is_what_its_code_imports(archive: Any, helper: str) -> None:
    source = "from handlers import ANSWER\ndef handle(data, context):\n    return [ANSWER]\n"
    assert ask(archive({"service.py": source, helper: "ANSWER = 'mine'\n"}), "service") == ["mine"]


def test_our_handlers_are_there_for_archives_without_their_own(archive: Any) -> None:
    source = "from handlers.errors import PredictionException\ndef handle(data, context):\n    return ['ours']\n"
    assert ask(archive({"service.py": source}), "service") == ["ours"]


def test_helpers_of_the_archive_come_before_installed_modules(archive: Any, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    installed.mkdir()
    (installed / "helper_of_tests.py").write_text("ANSWER = 'installed'\n")
    sys.path.insert(0, str(installed))
    source = "from helper_of_tests import ANSWER\ndef handle(data, context):\n    return [ANSWER]\n"
    assert ask(archive({"service.py": source, "helper_of_tests.py": "ANSWER = 'mine'\n"}), "service") == ["mine"]


# --- TorchServe's import names ---

TS_HANDLER = """
from ts.torch_handler.base_handler import BaseHandler

class Service(BaseHandler):
    def initialize(self, context):
        from ts.utils.util import PredictionException
        self.refused = PredictionException("no", 400)

    def handle(self, data, context):
        return [f"{self.refused} {BaseHandler.__module__}"]
"""


def test_names_of_torchserve_are_there(archive: Any) -> None:
    assert ask(archive({"service.py": TS_HANDLER}), "service") == ["no : 400 handlers.base"]


@pytest.mark.parametrize("own", ["handlers.py", "handlers/__init__.py", "handlers/errors.py"])
def test_names_of_torchserve_are_there_for_archives_with_handlers_of_their_own(archive: Any, own: str) -> None:
    """The archive's `handlers` is what its code imports, and `ts` still means ours, first imported in initialize."""
    source = f"import handlers\n{TS_HANDLER}"
    assert ask(archive({"service.py": source, own: "ANSWER = 'mine'\n"}), "service") == ["no : 400 handlers.base"]


@pytest.mark.parametrize("own", ["ts.py", "ts/__init__.py"])
def test_a_ts_of_the_archive_is_not_imported(archive: Any, own: str) -> None:
    folder = archive({"service.py": TS_HANDLER, own: "raise AssertionError('was run')\n"})
    assert ask(folder, "service") == ["no : 400 handlers.base"]


def test_processes_of_the_handler_find_ts_as_well(archive: Any) -> None:
    source = """
import subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

def handle(data, context):
    command = [sys.executable, "-c", "import ts; print(ts.__version__)"]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return data and [subprocess.check_output(command, text=True).strip(), pool.submit(version).result()]

def version():
    import ts
    return ts.__version__
"""
    assert ask(archive({"service.py": source}), "service") == ["0.12.0", "0.12.0"]


# --- surroundings ---


def test_handler_runs_in_the_model_directory(archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    folder = archive({"service.py": "from pathlib import Path\nTEXT = Path('words.txt').read_text()\n" + FUNCTION})
    (folder / "words.txt").write_text("read at import")
    entry_of(folder, "service")
    assert sys.modules["service"].TEXT == "read at import"
    assert Path.cwd() == folder
    assert sys.path[0] == str(folder)
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(folder), "/elsewhere", str(compat.FOLDER)]


def test_body_envelope_unwraps_for_handle_but_not_for_initialize(archive: Any) -> None:
    source = """
seen = []
def handle(data, context):
    seen.append(data)
    return data
"""
    folder = archive({"service.py": source})
    context = context_for(folder)
    entry = load_entry_point("service", "body", context)
    entry.initialize(context)
    assert entry.handle([{"body": [1]}, {"data": 2, "body": 3}], context) == [[1], 2]
    assert sys.modules["service"].seen == [None, [[1], 2]]


def test_unknown_envelope_names_the_known_ones(archive: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"'bdoy' is not known; known: .*body"):
        entry_of(archive({"service.py": FUNCTION}), "service", "bdoy")


def test_capabilities_are_those_after_initialize(archive: Any) -> None:
    source = CLASS.replace("self.name =", "self.length_batching = True; self.batch_explanations = 1; self.name =")
    context = context_for(archive({"service.py": source}))
    entry = load_entry_point("service", None, context)
    assert entry.capabilities == Capabilities()
    entry.initialize(context)
    assert entry.capabilities == Capabilities(length_batching=True, batch_explanations=True)


# --- context ---


def with_config(text: str) -> dict[str, str]:
    manifest = '{"model": {"modelName": "packed", "configFile": "settings.yaml"}, "extra": [1]}'
    return {"MAR-INF/MANIFEST.json": manifest, "settings.yaml": text}


def test_context_shows_manifest_and_system_properties(archive: Any) -> None:
    folder = archive(with_config("minWorkers: 2\nhandler:\n  mode: fast\n"))
    context = context_for(folder, gpu_id=0, limit_max_image_pixels=False)
    assert context.model_name == "answer"
    assert context.manifest == {"model": {"modelName": "packed", "configFile": "settings.yaml"}, "extra": [1]}
    assert context.model_yaml_config == {"minWorkers": 2, "handler": {"mode": "fast"}}
    assert context.system_properties == {
        "model_dir": str(folder),
        "gpu_id": 0,
        "batch_size": 4,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "limit_max_image_pixels": False,
    }


def test_context_without_manifest(archive: Any) -> None:
    context = context_for(archive({"service.py": ""}))
    assert (context.manifest, context.model_yaml_config) == (None, {})


def test_empty_config_is_an_empty_mapping(archive: Any) -> None:
    assert context_for(archive(with_config("# nothing\n"))).model_yaml_config == {}


def test_config_that_is_no_mapping_says_what_it_is(archive: Any) -> None:
    with pytest.raises(ModelLoadError, match=r"settings\.yaml must hold a mapping .* it holds a list"):
        context_for(archive(with_config("- a\n- b\n")))


def test_config_cannot_make_objects(archive: Any) -> None:
    with pytest.raises(Exception, match="could not determine a constructor"):
        context_for(archive(with_config("!!python/object/apply:os.system ['true']")))
