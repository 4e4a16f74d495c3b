"""Handlers that misuse the process that they run in, and the files: whatever they do stays with their own worker.

The rows are those of the matrix of faults, section G. Proven elsewhere:

    G14  test_worker_death: test_a_handler_may_close_its_standard_streams,
         test_a_request_that_kills_its_worker_is_tried_twice[close]
    G15  test_worker_death: test_a_handler_that_forks_gives_one_answer, test_children_of_a_worker_die_with_it
    G18  test_worker_death: test_an_archive_may_hold_modules_of_any_name; test_torchserve_imports
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from servers import MIRROR, Server, Servers, error_of, eventually

# Does with each request what its text says, and answers with it.
ACTING = """
import multiprocessing, os, signal, sys, threading


def fail_in_a_thread():
    thread = threading.Thread(target=int, args=("x",))
    thread.start()
    thread.join()


def pool():
    with multiprocessing.Pool(2) as workers:
        assert workers.map(abs, [-1, -2]) == [1, 2]


def crowd():
    for _ in range(30):
        if os.fork() == 0:
            signal.pause()


def make_oneself_at_home():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.alarm(1)
    signal.signal(signal.SIGALRM, lambda *_: None)
    os.umask(0o777)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.environ.clear()
    sys.path.clear()
    sys.stdout = sys.stderr = None


ACTS = {
    "thread fails": fail_in_a_thread,
    "threads stay": lambda: threading.Thread(target=threading.Event().wait).start(),
    "pool": pool,
    "crowd": crowd,
    "at home": make_oneself_at_home,
}


def handle(data, context):
    return data and [one(bytes(row["body"]).decode()) for row in data]


def one(what):
    ACTS.get(what, int)()
    return f"fine {what}"
"""
# The text of a request is what is patched in its worker.
PATCHING = """
import builtins, json, socket, struct


def handle(data, context):
    if not data:
        return None
    for row in data:
        exec(bytes(row["body"]).decode())
    return ["patched"] * len(data)
"""
NAMES = ("json", "logging", "model_server", "os", "socket", "struct", "threading", "torch", "ts", "typing", "yaml")
# Its archive has modules of these names. Those that nobody has imported yet are the archive's, the others Python's.
NAMESAKES = f"""
import importlib

OWN = [name for name in {NAMES} if getattr(importlib.import_module(name), "OWN", False)]


def handle(data, context):
    return data and [{{"own": OWN, "text": bytes(row["body"]).decode()}} for row in data]
"""
# Deletes what it was unpacked from when it is told to.
DESTRUCTIVE = """
import pathlib, shutil


class Handler:
    def initialize(self, context):
        self.folder = pathlib.Path(context.system_properties["model_dir"])
        assert (self.folder / "labels.txt").read_text() == "cat"

    def handle(self, data, context):
        if bytes(data[0]["body"]) == b"write":
            (self.folder / "labels.txt").write_text("dog")
        if bytes(data[0]["body"]) == b"delete":
            shutil.rmtree(self.folder)
        return ["fine"] * len(data)
"""


@pytest.fixture(scope="module")
def server(module_servers: Servers) -> Server:
    archives = module_servers.archives
    archives.pack("alone", ACTING)
    archives.pack("at_home", ACTING)
    archives.pack("patching", PATCHING, config={"responseTimeout": 1})
    archives.pack("namesakes", NAMESAKES, files={f"{name}.py": "OWN = True\n" for name in NAMES})
    archives.pack("destructive", DESTRUCTIVE, files={"labels.txt": "cat"})
    archives.pack("other", MIRROR)
    names = ["alone", "at_home", "patching", "namesakes", "destructive", "other"]
    return module_servers.start([f"{name}.mar" for name in names])


@pytest.fixture(autouse=True)
def _the_other_model_is_not_harmed(server: Server) -> Iterator[None]:
    before = server.worker_pids("other")
    yield
    assert server.predict("other", b"x").status_code == 200
    assert server.worker_pids("other") == before


def test_a_handler_may_change_its_process_as_it_likes(server: Server) -> None:
    """G14: signals, environment, path, streams; the worker goes on, and ends with the server."""
    (worker,) = server.worker_pids("at_home")
    assert server.predict("at_home", "at home").text == "fine at home"
    assert server.predict("at_home", "x").text == "fine x"
    assert server.worker_pids("at_home") == [worker]


def test_threads_and_processes_of_a_handler_end_with_its_worker(server: Server) -> None:
    """G15, G16: they neither disturb the answers nor hold up the end for longer than it takes to be sure."""
    before = {process.pid for process in server.processes()}
    for what in ("thread fails", "threads stay", "pool", "crowd"):
        assert server.predict("alone", what).text == f"fine {what}"
    (worker,) = server.worker_pids("alone")
    assert len({process.pid for process in server.processes()} - before) == 30
    began_s = time.monotonic()
    assert server.manage("PUT", "models/alone", params={"min_worker": 0, "synchronous": "true"}).status_code == 200
    assert time.monotonic() - began_s < 8
    left = before - {worker}
    eventually(lambda: {process.pid for process in server.processes()} == left, "no process of the model", 5)


@pytest.mark.parametrize(
    "patch",
    [
        "json.dumps = lambda *_, **__: 'nonsense'",
        "json.loads = None",
        "socket.socket.sendall = lambda *_: None",
        "struct.pack = lambda *_: b''",
        "builtins.len = lambda _: 7",
        "builtins.isinstance = lambda *_: False",
    ],
)
def test_what_a_handler_patches_is_broken_in_its_own_worker_only(server: Server, patch: str) -> None:
    """G18: whatever comes of the request, it comes soon, and the next one gets a sound worker."""
    began_s = time.monotonic()
    assert server.predict("patching", patch).status_code in (200, 500)
    assert server.predict("patching", "pass").text == "patched"
    assert time.monotonic() - began_s < 8


def test_an_archive_may_import_its_own_modules_of_any_name(server: Server) -> None:
    """G18: `torch` is the archive's, the worker does not take it for the library; its own modules were there before."""
    answer = server.predict("namesakes", "x")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"own": ["torch"], "text": "x"}


def test_a_handler_that_deletes_its_own_files_harms_itself_only(server: Server) -> None:
    """G21: the worker that is there goes on, a new one says what is missing, a registration anew is whole again."""
    assert server.predict("destructive", "write").text == "fine"
    assert server.predict("destructive", "delete").text == "fine"
    assert server.predict("destructive", "x").text == "fine"
    scaled = server.manage("PUT", "models/destructive", params={"min_worker": 2, "synchronous": "true"})
    code, _, message = error_of(scaled)
    assert code == 500
    assert message.startswith("Failed to start workers for model destructive version: null")
    assert server.predict("destructive", "x").text == "fine"
    assert server.manage("DELETE", "models/destructive").status_code == 200
    assert server.register("destructive.mar", initial_workers=1).status_code == 200
