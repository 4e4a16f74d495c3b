"""Models that cannot be loaded: the cause reaches whoever registers, everything else goes on, nothing is left.

The rows are those of the matrix of faults, section F. Proven elsewhere:

    F01-F06  archiver/test_archiver_damage, archiver/test_archiver_hostile, archiver/test_archiver_unpack;
             api/test_refused_archives: test_refused_before_a_worker_starts
    F07      archiver/test_archiver_manifest: test_what_cannot_be_parsed, test_a_byte_order_mark_is_skipped;
             api/test_refused_archives: test_refused_before_a_worker_starts, test_other_forms_are_accepted
    F08      archiver/test_archiver_manifest: test_wrong_types_name_key_and_value,
             test_paths_that_leave_the_archive_name_key_and_value, test_handlers_that_mean_nothing
    F09      archiver/test_archiver_config_file; config/test_model_config:
             test_unreadable_files_are_absent_with_one_line, test_one_warning_names_key_value_and_what_is_expected;
             test_placement: test_device_ids_that_are_not_there_are_ignored_with_a_warning
    F10      api/test_refused_archives: test_refused_by_the_worker; worker/test_entry_point
    F11      api/test_refused_archives: test_refused_by_the_worker; api/test_registration: test_a_startup_timeout;
             serving/test_replica (the number of attempts)
    F12-F15  handlers/test_hostile_weights, handlers/test_base_handler: test_what_cannot_be_loaded_is_named,
             handlers/test_transformer_loading
    F16      test_requirements; serving/test_requirement_files; serving/test_environments
    F17      test_placement: test_device_type_gpu_without_devices_is_cpu_with_a_warning
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from servers import MIRROR, Server, Servers, error_of, eventually

Write = Callable[..., None]
NONE: Mapping[str, str] = {}

MODEL = {"modelName": "bad", "handler": "bad_handler.py", "modelVersion": "1.0"}
# What a class does in `initialize`.
INITIALIZE = """
import ctypes, os, re, signal, subprocess, sys, threading, time

class Handler:
    def initialize(self, context):
        {}

    def handle(self, data, context):
        return ["fine"] * len(data)
"""
NETWORK = "import torch\n\nclass Network(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(2, 2)\n"


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    module_servers.archives.pack("good", MIRROR)
    return module_servers.start(["good.mar"])


@pytest.fixture
def write(module_servers: Servers) -> Write:
    """`write(source, {"name": content}, {"serializedFile": "name"})` makes bad.mar, which the archiver might refuse."""

    def write(handler: str, files: Mapping[str, str | bytes] = NONE, model: Mapping[str, str] = NONE) -> None:
        manifest = {"runtime": "python", "model": {**MODEL, **model}}
        with zipfile.ZipFile(module_servers.archives.folder / "bad.mar", "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
            archive.writestr("bad_handler.py", handler)
            for name, content in files.items():
                archive.writestr(name, content)

    return write


@pytest.fixture(autouse=True)
def _others_are_not_harmed(server: Server) -> Iterator[None]:
    """The other model keeps its worker and answers; models, processes and folders are afterwards what they were."""
    worker, unpacked = server.worker_pids("good"), server.unpacked()
    yield
    if "bad" in server.model_names():
        server.manage("DELETE", "models/bad")
    assert server.predict("good", b"x").status_code == 200
    assert server.worker_pids("good") == worker
    assert (server.model_names(), server.unpacked()) == (["good"], unpacked)
    eventually(
        lambda: [process.pid for process in server.model_processes()] == worker, "no process of the other model", 5
    )


# Source, the cause in the description, the place in the log.
NOT_IMPORTABLE = {
    "syntax": ("def handle(data, context):\n    return (\n", "'(' was never closed (bad_handler.py, line 2)", ""),
    "null bytes": ("VALUE = 'a\0b'\n", "SyntaxError: source code string cannot contain null bytes", ""),
    "missing package": ("import part\n", "ModuleNotFoundError: No module named 'nobody_has_this'", 'part.py", line 2'),
    "raises": ("\nraise RuntimeError('no driver')\n", "RuntimeError: no driver", 'bad_handler.py", line 2'),
    "function": ("def handle():\n    pass\n", "TypeError: handle() takes 0 positional arguments but 2 were given", ""),
    "class": ("class A:\n    def __init__(self, n): pass\n", "missing 1 required positional argument: 'n'", ""),
    "method": ("class A:\n    def handle(self, data, context): pass\n", "Expect initialize method in class A.", ""),
    "two classes": ("class A: pass\nclass B: pass\n", "Expected only one class in custom service code", ""),
}


@pytest.mark.parametrize(("source", "reason", "logged"), NOT_IMPORTABLE.values(), ids=NOT_IMPORTABLE)
def test_what_cannot_be_imported_is_named_in_the_description_and_the_log(
    server: Server, write: Write, source: str, reason: str, logged: str
) -> None:
    """F10: registered without waiting, so the model stays and says why it has no worker."""
    write(source, {"part.py": "\nimport nobody_has_this\n"})
    already = len(server.log_text())
    assert server.register("bad.mar", initial_workers=1, synchronous="false").status_code == 202
    worker = eventually(lambda: next((w for w in described(server) if "reason" in w), None), "a reason")
    assert worker["status"] == "UNLOADING"
    assert reason in worker["reason"]
    log = server.log_text()[already:]
    assert "Traceback (most recent call last):" in log
    assert logged in log


def described(server: Server) -> list[dict[str, str]]:
    workers: list[dict[str, str]] = server.describe("bad")[0]["workers"]
    return workers


@pytest.mark.parametrize(
    ("act", "status", "cause"),
    [
        ("raise ValueError('no weights')", 500, "ValueError: no weights"),
        ("raise ValueError('above') from KeyError('below')", 500, "ValueError: above"),
        ("sys.exit('no licence')", 500, "SystemExit: no licence"),
        ("os._exit(0)", 500, "exited with status 0"),
        ("ctypes.string_at(0)", 500, "ended by SIGSEGV"),
        ("os.abort()", 500, "ended by SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 507, "ended by SIGKILL"),
        ("bytearray(10**15)", 507, "MemoryError"),
        ("os.closerange(3, 100)", 500, "It had not loaded the model yet"),
        ("sys.stderr.write('e' * 5_000_000); raise ValueError('after much')", 500, "ValueError: after much"),
        ("threading.Thread(target=time.sleep, args=(1000,)).start(); raise ValueError('not alone')", 500, "not alone"),
        ("subprocess.Popen(['sleep', '1000']); raise ValueError('a parent')", 500, "ValueError: a parent"),
    ],
)
def test_whatever_ends_initialize_is_the_cause(server: Server, write: Write, act: str, status: int, cause: str) -> None:
    """F11: the registration is answered at once, and taken back."""
    write(INITIALIZE.format(act))
    began_s = time.monotonic()
    code, type_, message = error_of(server.register("bad.mar", initial_workers=1))
    assert time.monotonic() - began_s < 5
    assert (code, type_) == (status, "InternalServerException")
    assert message.startswith("Failed to start workers for model bad version: 1.0")
    assert cause in message


@pytest.mark.parametrize(
    "act", ["os.kill(os.getpid(), signal.SIGSTOP)", "re.match('(a+)+$', 'a' * 60 + 'b')", "threading.Event().wait()"]
)
def test_whatever_holds_initialize_up_ends_with_startup_timeout(server: Server, write: Write, act: str) -> None:
    """F11: stopped, busy in C, asleep."""
    write(INITIALIZE.format(act))
    began_s = time.monotonic()
    code, _, message = error_of(server.register("bad.mar", initial_workers=1, startup_timeout=1))
    assert 1 <= time.monotonic() - began_s < 5
    assert code == 500
    assert "1 s (startup_timeout)" in message


def test_printing_much_while_loading_harms_nobody(server: Server, write: Write) -> None:
    """F11."""
    write(INITIALIZE.format("[os.write(1, b'y' * 1_000_000) for _ in range(50)]"))
    assert server.register("bad.mar", initial_workers=1).status_code == 200
    assert server.predict("bad", b"x").text == "fine"


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self._path}",)


def test_code_in_weights_does_not_run(server: Server, write: Write, tmp_path: Path) -> None:
    """F12: in the real worker; every format is in handlers/test_hostile_weights."""
    torch.save({"weight": Touches(tmp_path / "canary")}, tmp_path / "weights.pt")
    files = {"weights.pt": (tmp_path / "weights.pt").read_bytes(), "network.py": NETWORK}
    write("", files, {"handler": "base_handler", "serializedFile": "weights.pt", "modelFile": "network.py"})
    code, _, message = error_of(server.register("bad.mar", initial_workers=1))
    assert code == 500
    assert "weights.pt is not a plain state dict: it calls for posix.system" in message
    assert not (tmp_path / "canary").exists()
