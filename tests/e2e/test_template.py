"""Workers forked from the template: clean copies, as good as fresh processes, whatever happens to the template."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import MIRROR, Server, eventually

Make = Callable[..., Path]
Start = Callable[..., Server]

# Tells about its process what a copy could have wrong. It imports torch, so the template does as well.
SHOWS = """
import ctypes, logging, os, random, signal, sys, threading

import numpy, torch


OF_ONE_SERVER = ("MODELSERVER_TEST_RUN", "TMPDIR", "PYTHONPATH")


def prctl(option):
    value = ctypes.c_int()
    ctypes.CDLL(None).prctl(option, ctypes.byref(value), 0, 0, 0)
    return value.value


def blas_threads():
    for line in open("/proc/self/maps"):
        if "openblas" in line:
            return ctypes.CDLL(line.split()[-1]).scipy_openblas_get_num_threads64_()


def kind(fd):
    return os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]


AT_IMPORT = {
    "descriptors": sorted((fd, kind(fd)) for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")),
    "free locks": [lock.acquire(blocking=False) for lock in (threading._active_limbo_lock, logging._lock)],
}


threading._active_limbo_lock.release()
logging._lock.release()


def handle(data, context):
    if data is None:
        return
    return [{
        **AT_IMPORT,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "name": open("/proc/self/comm").read(),
        "leads its session and group": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "signal at parent's death": prctl(2),
        "signals": {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGINT", "SIGTERM", "SIGCHLD")},
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "environment": {key: value for key, value in os.environ.items() if key not in OF_ONE_SERVER},
        "environment of children": os.popen("echo $OMP_NUM_THREADS").read(),
        "torch threads": torch.get_num_threads(),
        "numpy threads": blas_threads(),
        "cuda": torch.cuda.is_initialized(),
        "path": [entry for entry in sys.path if "unpacked" not in entry],
        "umask": os.umask(0o22),
        "chance": [torch.initial_seed(), torch.rand(1).item(), float(numpy.random.rand()), random.random()],
    }]
"""
PERSONAL = ("pid", "parent", "chance", "descriptors", "name")


def template_of(server: Server) -> psutil.Process:
    return eventually(server.template, "a template")


def shown(server: Server, workers: int) -> list[dict[str, Any]]:
    """What each worker says about itself."""
    found: dict[int, dict[str, Any]] = {}

    def is_complete() -> bool:
        for answer in server.predict_together("shows", [b""] * workers):
            document = answer.json()
            found[document["pid"]] = document
        return len(found) == workers

    eventually(is_complete, f"answers of {workers} workers")
    return list(found.values())


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {key: (value, other[key]) for key, value in one.items() if key not in PERSONAL and value != other[key]}


def test_a_forked_worker_is_like_a_fresh_one(server: Start, make_archive: Make) -> None:
    """Threads, locks, signals, environment, paths: nothing tells the one from the other but what is each one's own."""
    make_archive("shows", SHOWS, config={"minWorkers": 3, "maxWorkers": 3, "batchSize": 1})
    environment = {"OMP_NUM_THREADS": "2", "OF_THE_USER": "kept"}
    forking = server(["shows.mar"], environment=environment)
    plain = server(["shows.mar"], {"fork_workers": "false"}, environment=environment)
    forked, fresh = shown(forking, 3), shown(plain, 3)
    assert [difference(fresh[0], each) for each in (*forked, *fresh)] == [{}] * 6
    one = forked[0]
    assert (one["torch threads"], one["numpy threads"]) == (2, 2)
    assert one["signal at parent's death"] == signal.SIGKILL
    assert one["environment"]["OF_THE_USER"] == "kept"
    assert not one["cuda"]
    for each in (forked, fresh):
        # The first 15 characters of W-9000-shows_1.0 and so on.
        assert {worker["name"] for worker in each} == {f"W-{id}-shows_1.\n" for id in (9000, 9001, 9002)}
    assert {each["parent"] for each in forked} == {forking.process.pid}


def test_a_forked_worker_holds_no_descriptor_of_the_template(server: Start, make_archive: Make) -> None:
    """Its input, its output, its socket; another one would keep somebody from seeing the end of something."""
    make_archive("shows", SHOWS, config={"minWorkers": 2, "maxWorkers": 2, "batchSize": 1})
    for worker in shown(server(["shows.mar"]), 2):
        kinds = [kind for _, kind in worker["descriptors"]]
        assert kinds[:3] == ["/dev/null", "pipe", "pipe"]
        assert kinds[3:] == ["socket"]


def test_forked_workers_do_not_share_their_chance(server: Start, make_archive: Make) -> None:
    make_archive("shows", SHOWS, config={"minWorkers": 3, "maxWorkers": 3, "batchSize": 1})
    drawn = [worker["chance"] for worker in shown(server(["shows.mar"]), 3)]
    for of_one_generator in zip(*drawn, strict=True):
        assert len(set(of_one_generator)) == 3


def test_the_template_stays_single_threaded_and_has_what_handlers_import(server: Start, make_archive: Make) -> None:
    make_archive("shows", SHOWS)
    running = server(["shows.mar"])
    assert template_of(running).num_threads() == 1
    libraries = [mapping.path for mapping in template_of(running).memory_maps()]
    assert any("libtorch" in path for path in libraries)


@pytest.mark.parametrize("models", [["named=shows.mar"], ["missing.mar", "shows.mar"], ["all"]])
def test_it_imports_what_start_up_models_need_before_a_worker_is_wanted(
    server: Start, make_archive: Make, models: list[str]
) -> None:
    make_archive("shows", SHOWS, config={"minWorkers": 0, "maxWorkers": 0})
    template = template_of(server(models))
    eventually(lambda: any("libtorch" in mapping.path for mapping in template.memory_maps()), "torch in the template")


def test_what_no_handler_imports_is_not_loaded(server: Start, make_archive: Make) -> None:
    make_archive("mirror", MIRROR)
    libraries = [mapping.path for mapping in template_of(server(["mirror.mar"])).memory_maps()]
    assert not any("libtorch" in path for path in libraries)


def test_an_archive_with_a_module_of_a_library_s_name_gets_its_own(server: Start, make_archive: Make) -> None:
    """Another model has made the template import numpy; this one brings a module of that name."""
    make_archive("shows", SHOWS)
    source = "import numpy\n\n\ndef handle(data, context):\n    return data and [numpy.WHOSE] * len(data)\n"
    make_archive("own", source, files={"numpy.py": "WHOSE = 'of the archive'\n"})
    running = server(["shows.mar"])
    assert running.register("own.mar", initial_workers=1).status_code == 200
    assert running.predict("own").text == "of the archive"
    assert running.predict("shows", b"x").status_code == 200


# --- the end of a template ---


def test_a_killed_template_harms_no_request_and_is_replaced(server: Start, make_archive: Make) -> None:
    make_archive("mirror", MIRROR, config={"minWorkers": 2, "maxWorkers": 2})
    running = server(["mirror.mar"])
    workers = running.worker_pids("mirror")
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(running.predict, "mirror", b"x") for _ in range(50)]
        first = template_of(running)
        first.kill()
        answers += [pool.submit(running.predict, "mirror", b"x") for _ in range(50)]
        assert {answer.result().status_code for answer in answers} == {200}
    assert running.worker_pids("mirror") == workers
    eventually(lambda: template_of(running).pid != first.pid, "another template")
    assert "The template of workers ended" in running.log_text()


def test_a_worker_that_dies_with_the_template_comes_back(server: Start, make_archive: Make) -> None:
    make_archive("mirror", MIRROR)
    running = server(["mirror.mar"])
    (pid,) = running.worker_pids("mirror")
    template_of(running).kill()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: running.worker_pids("mirror") not in ([], [pid]), "another worker")
    assert running.predict("mirror", b"x").status_code == 200


def test_a_replaced_template_has_imported_the_same(server: Start, make_archive: Make) -> None:
    make_archive("shows", SHOWS)
    running = server(["shows.mar"])
    first = template_of(running)
    first.kill()

    def has_torch() -> bool:
        template = template_of(running)
        return template.pid != first.pid and any("libtorch" in part.path for part in template.memory_maps())

    eventually(has_torch, "a template with torch")


def test_a_stopped_template_is_given_up_with_the_server(server: Start, make_archive: Make) -> None:
    """The server's end, which every test demands, does not wait for a process that does nothing any more."""
    make_archive("mirror", MIRROR)
    template_of(server(["mirror.mar"])).suspend()


def test_no_template_outlives_a_killed_server(server: Start, make_archive: Make) -> None:
    make_archive("mirror", MIRROR)
    running = server(["mirror.mar"])
    template_of(running)
    running.kill()
    eventually(lambda: running.processes() == [], "no process", 2)


def test_where_there_can_be_no_template_workers_start_one_by_one(
    server: Start, make_archive: Make, tmp_path: Path
) -> None:
    """An interpreter that ends as soon as it is to be a template."""
    make_archive("mirror", MIRROR)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *--template*) exit 3;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    running = server(["mirror.mar"], {"python": python})
    assert running.predict("mirror", b"x").status_code == 200
    eventually(lambda: "workers are started one by one" in running.log_text(), "a line in the log")
    assert [process.pid for process in running.model_processes()] == running.worker_pids("mirror")
