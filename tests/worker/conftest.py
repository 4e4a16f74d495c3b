"""Archives written by the tests, and an interpreter that loading them leaves as it was."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_harness import Handle, RunnerInThread

from model_server.wire.messages import ServingMode

Archive = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Writes an unpacked archive: `archive({"handler.py": "..."})` -> its folder."""

    def write(files: dict[str, str | bytes]) -> Path:
        folder = tmp_path / "archive"
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return write


@pytest.fixture
def restored_interpreter(tmp_path: Path) -> Iterator[None]:
    """Undoes what a worker does to its process when it loads a handler."""
    folder, path, modules = Path.cwd(), sys.path.copy(), sys.modules.copy()
    python_path = os.environ.get("PYTHONPATH")
    yield
    os.chdir(folder)
    sys.path[:] = path
    # Libraries imported meanwhile stay: many cannot be imported twice.
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)) or name.partition(".")[0] == "ts":
            del sys.modules[name]
    sys.modules.update(modules)
    os.environ.pop("PYTHONPATH", None)
    if python_path is not None:
        os.environ["PYTHONPATH"] = python_path
    gc.unfreeze()


@pytest.fixture
def runner() -> Iterator[Callable[..., RunnerInThread]]:
    """`runner(handle, mode="batch", **load)` -> `RunnerInThread`."""
    runners: list[RunnerInThread] = []

    def start(handle: Handle, mode: ServingMode = "batch", **load: Any) -> RunnerInThread:
        runners.append(RunnerInThread(handle, mode, **load))
        return runners[-1]

    yield start
    for running in runners:
        running.close()
