"""The import names of TorchServe. The list is that of TorchServe's users: import lines of its examples and tests."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import handlers

NAMES = """
from ts.context import Context
from ts.context import RequestProcessor
from ts.handler_utils.timer import timed
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.handler_utils.utils import import_class
from ts.handler_utils.micro_batching import MicroBatching
from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.metric import Metric
from ts.metrics.metrics_store import MetricsStore
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
import ts.metrics.metric_cache_errors
from ts.protocol.otf_message_handler import send_intermediate_predict_response
from ts.service import PredictionException
from ts.torch_handler.unit_tests.test_utils.mock_context import MockContext
from ts.torch_handler.unit_tests.test_utils.model_dir import download_model, copy_files
from ts.utils.util import map_class_to_label
from ts.utils.util import load_label_mapping
from ts.utils.util import list_classes_from_module
from ts.utils.util import check_valid_pt2_backend
from ts.utils.util import PT2Backend
from ts.utils.util import CLEANUP_REGEX
from ts.utils.util import PredictionException
from ts.utils.util import get_yaml_config
from ts.utils.util import deprecated
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.base_handler import PROFILER_AVAILABLE
from ts.torch_handler.base_handler import PT2_AVAILABLE, PT230_AVAILABLE, XLA_AVAILABLE, IPEX_AVAILABLE, ONNX_AVAILABLE
from ts.torch_handler.base_handler import setup_ort_session
from ts.torch_handler.vision_handler import VisionHandler
from ts.torch_handler.text_handler import TextHandler
from ts.torch_handler.text_classifier import TextClassifier
from ts.torch_handler.contractions import CONTRACTION_MAP
from ts.handler_utils.text_utils import get_tokenizer, ngrams_iterator
from ts.torch_handler.image_classifier import ImageClassifier
from ts.torch_handler.image_segmenter import ImageSegmenter
from ts.torch_handler.object_detector import ObjectDetector
from ts.torch_handler.dali_image_classifier import DALIImageClassifier
from ts.torch_handler.dali_handler import DALIHandler
from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler
from ts.torch_handler.distributed.base_deepspeed_handler import BaseDeepSpeedHandler
from ts.handler_utils.distributed.pt_pippy import get_pipeline_driver
from ts.handler_utils.distributed.deepspeed import get_ds_engine
from ts.torch_handler.request_envelope.base import BaseEnvelope
from ts.torch_handler.request_envelope.body import BodyEnvelope
from ts.torch_handler.request_envelope.json import JSONEnvelope
from ts.torch_handler.request_envelope import kserve, kservev2
from ts.torch_handler.request_envelope.kserve import KServeEnvelope
from ts.torch_handler.request_envelope.kservev2 import KServev2Envelope
import ts
from ts.version import __version__
""".strip().splitlines()


def run(script: str, *folders: Path) -> str:
    """What a new interpreter prints; `folders` come first on its path."""
    path = os.pathsep.join(map(str, folders))
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Line -> what importing it raised, "" when nothing; all in one interpreter."""
    script = f"""
import json
import handlers.compat
handlers.compat.activate()
outcomes = {{}}
for line in {NAMES!r}:
    try:
        exec(line, {{}})
        outcomes[line] = ""
    except Exception as error:
        outcomes[line] = repr(error)
print(json.dumps(outcomes))
"""
    return json.loads(run(script))


@pytest.mark.parametrize("line", NAMES)
def test_every_name_can_be_imported(outcomes: dict[str, str], line: str) -> None:
    assert outcomes[line] == ""


def test_every_module_can_be_imported() -> None:
    """The list above could lack one; here none may fail."""
    script = """
import importlib, pkgutil
import handlers.compat
handlers.compat.activate()
import ts
names = [module.name for module in pkgutil.walk_packages(ts.__path__, "ts.")]
for name in names:
    importlib.import_module(name)
print(len(names) > 40)
"""
    assert run(script) == "True"


def test_the_modules_only_re_export() -> None:
    """What does something lies in `handlers`, under its own name, where it has tests of its own."""
    for path in Path(handlers.__path__[0], "compat", "ts").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            assert isinstance(node, ast.ImportFrom | ast.Assign | ast.Expr), f"{path}:{node.lineno}"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder in which another `ts` lies, as `pip install torchserve` would leave it."""
    for module in ("ts", "ts.utils", "ts.only_there"):
        folder = tmp_path.joinpath("site", *module.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("__version__ = 'the installed one'\n")
    return tmp_path / "site"


ACTIVATE = "import handlers.compat; handlers.compat.activate();"


def test_without_activation_there_is_no_ts() -> None:
    assert run("import importlib.util; print(importlib.util.find_spec('ts'))") == "None"


def test_ours_wins_over_an_installed_one(installed: Path) -> None:
    assert run("import ts; print(ts.__version__)", installed) == "the installed one"
    assert run(f"{ACTIVATE} import ts; print(ts.__version__)", installed) == "0.12.0"
    script = f"{ACTIVATE} from ts.utils.util import PT2Backend; print(PT2Backend.__module__)"
    assert run(script, installed) == "handlers.pt2_backend"


def test_ours_wins_over_one_that_was_imported_before(installed: Path) -> None:
    script = f"import ts.utils; {ACTIVATE} import ts; from ts.utils import util; print(ts.__version__, util.__file__)"
    assert run(script, installed).startswith("0.12.0 ")
    assert str(installed) not in run(script, installed)


def test_the_two_do_not_mix(installed: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(f"import ts.only_there; {ACTIVATE} import ts.only_there", installed)
    assert "No module named 'ts.only_there'" in caught.value.stderr


def test_activating_again_keeps_what_is_there() -> None:
    script = f"{ACTIVATE} import ts.utils.util as a; {ACTIVATE} import ts.utils.util as b; print(a is b)"
    assert run(script) == "True"


def test_ts_alone_is_light() -> None:
    script = f"{ACTIVATE} import ts, ts.version, sys; print('torch' in sys.modules, 'yaml' in sys.modules)"
    assert run(script) == "False False"


def test_names_are_those_of_our_own_modules() -> None:
    """Two copies of a class would make `except PredictionException` and `isinstance` fail."""
    script = f"""
{ACTIVATE}
from handlers import context, errors, modules
from ts import context as ts_context, service
from ts.utils import util
print(
    ts_context.Context is context.Context,
    service.PredictionException is util.PredictionException is errors.PredictionException,
    util.list_classes_from_module is modules.classes_defined_in,
)
"""
    assert run(script) == "True True True"


def test_our_modules_import_each_other_at_once() -> None:
    """When an archive brings a `handlers` of its own, ours can no longer be found by name after it was loaded."""
    root = Path(handlers.__path__[0])
    functions = [
        (path.relative_to(root), node)
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert functions
    late = [
        f"{path}:{node.lineno}"
        for path, function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "handlers"
    ]
    assert late == []


def test_the_former_place_of_streaming_warns() -> None:
    script = f"""
{ACTIVATE}
import warnings
from ts.context import Context
from ts.protocol.otf_message_handler import send_intermediate_predict_response
sent = []
context = Context("m", ".", None, 1, None, "0")
context.request_ids = {{0: "id"}}
context.send_chunk = lambda index, value: sent.append((index, value))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    send_intermediate_predict_response(["a"], {{0: "id"}}, "Intermediate Prediction success", 200, context)
print(sent, [(w.category.__name__, str(w.message)) for w in caught])
"""
    assert run(script) == (
        "[(0, 'a')] [('PendingDeprecationWarning', 'send_intermediate_predict_response is deprecated in 1.0 "
        "and moved to ts.handler_utils.utils.send_intermediate_predict_response')]"
    )
