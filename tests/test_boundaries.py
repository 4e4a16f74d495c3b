"""Who may import what, and which calls nobody makes. Every rule is also shown a piece of code that breaks it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("archiver", "handlers", "model_server")

# Everything in `model_server` but `wire` may know the version, the errors and the names of the logs.
COMMON = ("model_server.errors", "model_server.logs")
# The longest prefix that fits a module says which of our modules it may import.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "archiver": ("archiver", "handlers.builtin"),
    "handlers": ("handlers",),
    "model_server.wire": ("model_server.wire",),
    "model_server.worker": ("model_server.worker", "model_server.wire", "handlers", *COMMON),
    "model_server.logs": ("model_server.logs",),
    "model_server.config": ("model_server.config", "archiver", *COMMON),
    "model_server.metrics": ("model_server.metrics", "model_server.config", *COMMON),
    "model_server.serving": (
        "model_server.serving",
        "model_server.wire",
        "model_server.config",
        "model_server.metrics",
        "archiver",
        *COMMON,
    ),
    "model_server.api": (
        "model_server.api",
        "model_server.serving",
        "model_server.wire.messages",
        "model_server.config",
        "model_server.metrics",
        "model_server.tokens",
        *COMMON,
    ),
    "model_server.startup": (
        "model_server.server",
        "model_server.serving",
        "model_server.config",
        "model_server.status",
        *COMMON,
    ),
    "model_server.server": (
        "model_server.api",
        "model_server.serving",
        "model_server.config",
        "model_server.metrics",
        "model_server.status",
        "model_server.tokens",
        *COMMON,
    ),
    "model_server.aliases": ("handlers.compat",),
    "model_server.compat": (
        "model_server.compat",
        "model_server.launcher",
        "model_server.pid_file",
        "model_server.config",
        "handlers.compat",
    ),
    "model_server.cli": (
        "model_server.aliases",
        "model_server.launcher",
        "model_server.startup",
        "model_server.serving",
        "model_server.config",
        "model_server.descriptors",
        "model_server.pid_file",
        "model_server.status",
        "model_server.token_command",
        *COMMON,
    ),
    "model_server.launcher": (
        "model_server.config",
        "model_server.pid_file",
        "model_server.status",
        "model_server.tokens",
        *COMMON,
    ),
    "model_server.pid_file": ("model_server.config.errors",),
    "model_server.token_command": (
        "model_server.config.errors",
        "model_server.pid_file",
        "model_server.tokens",
        *COMMON,
    ),
    "model_server.tokens": COMMON,
    "model_server": (),  # errors, logs, status and the package itself
}
# Third parties have one home each.
HOMES: dict[str, tuple[str, ...]] = {
    "aiohttp": ("model_server.api", "model_server.server", "model_server.serving.download"),
    "click": (
        "model_server.cli",
        "model_server.aliases",
        "model_server.token_command",
        "archiver.cli",
        "archiver.compat.packaging",
    ),
    "grpc": ("model_server.api.grpc",),
    "google": ("model_server.api.grpc",),
    "msgspec": ("model_server.config", "model_server.api"),
    "prometheus_client": ("model_server.metrics",),
    "psutil": (
        "model_server.serving",
        "model_server.metrics",
        "model_server.launcher",
        "model_server.pid_file",
        "model_server.token_command",
    ),
    "cryptography": ("model_server.config.tls",),
    "requests": ("model_server.compat",),
    "uvloop": ("model_server.startup",),
    "yaml": ("archiver", "model_server.config", "model_server.worker.entry_point", "handlers.yaml_config"),
    **dict.fromkeys(("torch", "transformers", "safetensors", "numpy"), ("handlers", "archiver.sources")),
    **dict.fromkeys(("captum", "accelerate", "optimum", "torch_neuron", "torch_neuronx"), ("handlers",)),
    **dict.fromkeys(("PIL", "onnxruntime"), ("handlers",)),
}
# Not every installation has these: imported where they are used.
ONLY_IN_FUNCTIONS = (
    "captum",
    "accelerate",
    "optimum",
    "torch_neuron",
    "torch_neuronx",
    "PIL",
    "onnxruntime",
    "cryptography",
)
# Who may look at the clock on the wall, which an operator may set to any time: for what people read, for tokens and
# signatures, and for the age of files. Whatever waits or measures uses time.monotonic.
MAY_READ_THE_WALL_CLOCK = (
    "model_server.logs",
    "model_server.metrics.log_lines",
    "model_server.api.auth",
    "model_server.token_command",
    "model_server.config.tls",
    "model_server.serving.download",
    "model_server.serving.replica",
    "model_server.serving.snapshot",
    "model_server.serving.unpacked",
    "model_server.serving.store",
)
_WALL_CLOCK = ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today")
RUNS_CODE_IN_DATA = ("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib")


@dataclass(frozen=True, slots=True)
class Import:
    """`name` is a module, or something in one; `is_lazy`: not run when the module is imported."""

    name: str
    line: int
    is_lazy: bool


def modules() -> dict[str, Path]:
    found = {}
    for package in OURS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(tree: ast.AST, is_lazy: bool = False) -> Iterator[Import]:
    """All imports below `tree`, at any depth."""
    for node in ast.iter_child_nodes(tree):
        lazy = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types(node)
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, is_lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (Import(f"{module}.{alias.name}", node.lineno, is_lazy) for alias in node.names)
        yield from imports(node, lazy)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def is_below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


# --- the rules: each gives a sentence for what is wrong ---


def import_problems(module: str, source: str) -> Iterator[str]:
    for item in imports(ast.parse(source)):
        top = item.name.partition(".")[0]
        if not top:
            yield f"line {item.line}: {item.name} is relative; write it out"
        elif top in OURS:
            yield from _own_import_problems(module, item)
        elif top not in sys.stdlib_module_names:
            yield from _foreign_import_problems(module, item, top)


def _own_import_problems(module: str, item: Import) -> Iterator[str]:
    row = max((row for row in MAY_IMPORT if is_below(module, (row,))), key=len)
    is_version = item.name == "model_server.__version__" and row != "model_server.wire" and row != "handlers"
    if not is_version and not is_below(item.name, MAY_IMPORT[row]):
        yield f"line {item.line}: {module} must not import {item.name}"


def _foreign_import_problems(module: str, item: Import, top: str) -> Iterator[str]:
    if top not in HOMES:
        yield f"line {item.line}: {top} has no home; give it one in HOMES"
    elif not is_below(module, HOMES[top]):
        yield f"line {item.line}: {top} is not at home in {module}"
    if (top in ONLY_IN_FUNCTIONS or is_below(module, ("archiver.sources",))) and not item.is_lazy:
        yield f"line {item.line}: {top} must be imported inside a function"


def call_problems(source: str) -> Iterator[str]:
    """Reading data in a way that lets the data run code."""
    tree = ast.parse(source)
    for item in imports(tree):
        if is_below(item.name, RUNS_CODE_IN_DATA) and not _names_only_the_error(tree, item):
            yield f"line {item.line}: {item.name} must not be imported"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _loader_problems(node, ast.unparse(node.func))


def clock_problems(module: str, source: str) -> Iterator[str]:
    if not is_below(module, ("model_server",)) or is_below(module, MAY_READ_THE_WALL_CLOCK):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node).endswith(_WALL_CLOCK):
            yield f"line {node.lineno}: {ast.unparse(node)} may jump; time.monotonic does not"


def _names_only_the_error(tree: ast.AST, item: Import) -> bool:
    """`torch.load` raises `pickle.UnpicklingError`; whoever catches it has to name it."""
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_name(node.value, "pickle")}
    return item.name == "pickle.UnpicklingError" or (item.name == "pickle" and used == {"UnpicklingError"})


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _loader_problems(call: ast.Call, function: str) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if function in ("yaml.load", "yaml.load_all"):
        loader = keywords.get("Loader") or (call.args[1] if len(call.args) > 1 else None)
        if loader is None or not ast.unparse(loader).endswith("SafeLoader"):
            yield f"line {call.lineno}: {function} without a safe loader"
    elif function.startswith("yaml.") and function.removesuffix("_all").endswith(("unsafe_load", "full_load")):
        yield f"line {call.lineno}: {function} is not safe"
    elif function == "torch.load":
        chosen = keywords.get("weights_only")
        if chosen is None or (isinstance(chosen, ast.Constant) and chosen.value is not True):
            yield f"line {call.lineno}: torch.load without weights_only"
    elif function in ("eval", "exec"):
        yield f"line {call.lineno}: {function} of a text"


def cycle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other when they are imported; [] when there are none."""
    graph = {module: set(_imported_modules(module, source, sources)) for module, source in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _imported_modules(module: str, source: str, known: dict[str, str]) -> Iterator[str]:
    for item in imports(ast.parse(source)):
        # `from a.b import c` imports the module a.b.c if there is one, else a.b.
        target = item.name if item.name in known else item.name.rpartition(".")[0]
        if not item.is_lazy and target in known and target != module:
            yield target


# --- our code keeps the rules ---


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_to_the_table(module: str) -> None:
    assert list(import_problems(module, MODULES[module].read_text())) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_data_is_run_as_code(module: str) -> None:
    assert list(call_problems(MODULES[module].read_text())) == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_waits_for_the_clock_on_the_wall(module: str) -> None:
    assert list(clock_problems(module, MODULES[module].read_text())) == []


def test_there_are_no_import_cycles() -> None:
    assert cycle({module: path.read_text() for module, path in MODULES.items()}) == []


def test_the_package_holds_its_version_and_nothing_else() -> None:
    statements = ast.parse(MODULES["model_server"].read_text()).body
    assert [ast.unparse(statement).partition(" = ")[0] for statement in statements] == ["__version__"]


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("model_server.worker.__main__", {"aiohttp", "uvloop", "asyncio", "torch", "model_server.config", "archiver"}),
        ("model_server.server", {"torch", "transformers", "numpy", "model_server.worker", "handlers.base"}),
        ("archiver.cli", {"torch", "aiohttp", "model_server", "handlers.base"}),
        ("model_server.wire.messages", {"asyncio", "yaml", "handlers", "archiver"}),
    ],
)
def test_what_is_really_loaded(module: str, never: set[str]) -> None:
    """The sum of it all: a new interpreter imports one program."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert never.isdisjoint(json.loads(loaded))


# --- and each rule can be broken ---


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("archiver.pack", "import torch"),
        ("archiver.pack", "def f():\n    import torch"),
        ("archiver.pack", "from aiohttp import web"),
        ("archiver.pack", "from model_server.errors import ServerError"),
        ("archiver.pack", "from handlers.base import BaseHandler"),
        ("archiver.pack", "from . import errors"),
        ("archiver.sources.pipeline", "import torch"),
        ("handlers.base", "import model_server"),
        ("handlers.base", "from archiver import manifest"),
        ("handlers.base", "import yaml"),
        ("handlers.base", "import captum"),
        ("handlers.base", "try:\n    from accelerate import x\nexcept ImportError:\n    pass"),
        ("model_server.wire.frames", "from model_server.errors import ServerError"),
        ("model_server.wire.frames", "from model_server import __version__"),
        ("model_server.wire.frames", "import msgspec"),
        ("model_server.worker.loop", "from model_server.serving import queue"),
        ("model_server.worker.loop", "from model_server.config.load import load_config"),
        ("model_server.worker.loop", "import archiver.manifest"),
        ("model_server.worker.loop", "import aiohttp"),
        ("model_server.worker.loop", "import yaml"),
        ("model_server.worker.loop", "import torch"),
        ("model_server.serving.queue", "from model_server.api import sites"),
        ("model_server.serving.queue", "from model_server.worker.loop import serve"),
        ("model_server.serving.queue", "from handlers.context import Context"),
        ("model_server.serving.queue", "import torch"),
        ("model_server.serving.queue", "import aiohttp"),
        ("model_server.api.inference", "from archiver import inspect"),
        ("model_server.api.inference", "from model_server.wire.frames import FrameDecoder"),
        ("model_server.api.inference", "from model_server.worker import results"),
        ("model_server.api.inference", "import grpc"),
        ("model_server.config.load", "from model_server.serving.model import Model"),
        ("model_server.server", "import model_server.worker.__main__"),
        ("model_server.server", "from model_server.cli import main"),
        ("model_server.launcher", "from model_server.server import run"),
        ("model_server.errors", "from model_server.config import server"),
        ("model_server.cli", "import a_package_of_nobody"),
        ("model_server.cli", "if TYPE_CHECKING:\n    from model_server.worker import loop"),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(list(import_problems(module, source))) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("archiver.pack", "from handlers.builtin import BUILTIN_HANDLERS"),
        ("archiver.sources.pipeline", "def f():\n    import torch"),
        ("handlers.transformer.handler", "import torch, transformers"),
        ("handlers.transformer.handler", "def f():\n    from captum.attr import LayerIntegratedGradients"),
        ("model_server.worker.loop", "from model_server.logs import MODEL_LOG\nfrom handlers.context import Context"),
        ("model_server.serving.download", "import aiohttp"),
        ("model_server.serving.model", "from model_server import __version__"),
        ("model_server.api.inference", "from model_server.wire.messages import Part"),
        ("model_server.cli", "import sys, os.path"),
    ],
)
def test_a_permitted_import_is_not(module: str, source: str) -> None:
    assert list(import_problems(module, source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle\npickle.loads(b'')\npickle.UnpicklingError",
        "from pickle import loads",
        "import cloudpickle",
        "def f():\n    import dill",
        "import marshal",
        "import shelve",
        "yaml.load(text)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "yaml.load_all(text, Loader=yaml.UnsafeLoader)",
        "yaml.unsafe_load(text)",
        "yaml.full_load_all(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=None)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_data_that_could_run_is_found(source: str) -> None:
    assert len(list(call_problems(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass",
        "from pickle import UnpicklingError",
        "yaml.load(text, yaml.CSafeLoader)",
        "yaml.load(text, Loader=_SafeLoader)",
        "yaml.safe_load(text)",
        "torch.load(path, weights_only=True)",
        "torch.load(path, weights_only=not allow_pickle)",
        "model.eval()",
    ],
)
def test_data_that_cannot_run_is_not(source: str) -> None:
    assert list(call_problems(source)) == []


@pytest.mark.parametrize(
    ("sources", "has_cycle"),
    [
        ({"a": "import b", "b": "import a"}, True),
        (
            {"a": "from b import f", "b": "try:\n    from c import g\nexcept ImportError:\n    pass", "c": "import a"},
            True,
        ),
        ({"p.a": "from p import b", "p.b": "import p.a", "p": ""}, True),
        ({"a": "class A:\n    import b", "b": "import a"}, True),
        ({"a": "import b", "b": "def f():\n    import a"}, False),
        ({"a": "import b", "b": "if TYPE_CHECKING:\n    import a"}, False),
        ({"a": "import b", "b": "import c", "c": ""}, False),
    ],
)
def test_a_cycle_is_found(sources: dict[str, str], has_cycle: bool) -> None:
    assert bool(cycle(sources)) == has_cycle


@pytest.mark.parametrize("source", ["import time\ntime.time()", "from datetime import datetime\ndatetime.now()"])
def test_reading_the_clock_on_the_wall_is_found(source: str) -> None:
    assert len(list(clock_problems("model_server.serving.queue", source))) == 1
    assert list(clock_problems("model_server.serving.snapshot", source)) == []
