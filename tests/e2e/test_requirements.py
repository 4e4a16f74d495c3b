"""Models with requirements of their own in the real server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from servers import STOP_DEADLINE_S, Server, Servers, error_of, eventually
from wheels import write_source, write_wheel

HANDLER = """
import json, sys
import msdemo

def handle(data, context):
    return data and [json.dumps([msdemo.version, msdemo.__file__, sys.prefix])] * len(data)
"""
PLAIN = "def handle(data, context):\n    return data and ['fine'] * len(data)\n"
HANGS = "import signal; signal.pause()"
PREFIX = "Custom pip package installation failed for model "


class Packing:
    """Archives with a requirements file, and servers that install them."""

    def __init__(self, servers: Servers, folder: Path) -> None:
        self.servers = servers
        self._folder = folder
        self.cache = folder / "cache"
        self.marker = folder / "marker"
        self.config = {"install_py_dep_per_model": "true", "requirements_cache": self.cache}

    def start(self, *models: str, **config: object) -> Server:
        return self.servers.start(models, {**self.config, **config}, environment={"PIP_NO_CACHE_DIR": "1"})

    def pack(self, name: str, requirement: str, handler: str = HANDLER, **options: Any) -> None:
        """`requirement`: a line of the file; the index is never asked."""
        requirements = self._folder / "requirements.txt"
        requirements.write_text(f"--no-index\n{requirement}\n")
        self.servers.archives.pack(name, handler, requirements_file=str(requirements), **options)

    def pack_wheel(self, name: str, version: str, config: Mapping[str, Any] | None = None) -> None:
        self.pack_file(name, write_wheel(self._folder, version), config)

    def pack_source(self, name: str, hook: str = "pass") -> None:
        """Its installation adds a line to `marker`: the process that does it."""
        note = f"print(os.getpid(), file=open({str(self.marker)!r}, 'a'), flush=True)"
        self.pack_file(name, write_source(self._folder, "3.0", f"{note}; {hook}"))

    def pack_file(self, name: str, package: Path, config: Mapping[str, Any] | None = None) -> None:
        self.pack(name, f"./{package.name}", files={package.name: package.read_bytes()}, config=config)

    @property
    def installers(self) -> list[int]:
        return [int(line) for line in self.marker.read_text().split()] if self.marker.exists() else []

    @property
    def environments(self) -> list[Path]:
        return list(self.cache.glob("*/build-*"))


@pytest.fixture
def packing(servers: Servers, tmp_path: Path) -> Packing:
    return Packing(servers, tmp_path)


def test_two_versions_of_a_package_side_by_side(packing: Packing) -> None:
    packing.pack_wheel("one", "1.0", {"useVenv": True})
    packing.pack_wheel("two", "2.0")
    server = packing.start("one=one.mar", "two=two.mar")
    answers = {name: json.loads(server.predict(name, b"x").text) for name in ("one", "two")}
    assert {name: version for name, (version, *_) in answers.items()} == {"one": "1.0", "two": "2.0"}
    prefixes = {Path(prefix) for _, _, prefix in answers.values()}
    assert set(packing.environments) == prefixes and len(prefixes) == 2
    assert all(Path(file).is_relative_to(prefix) for _, file, prefix in answers.values())
    assert [server.describe(name)[0]["useVenv"] for name in ("one", "two")] == [True, False]
    assert "Model one: pip: Successfully installed msdemo-1.0" in server.log_text()


def test_neither_a_new_worker_nor_model_nor_server_installs_again(packing: Packing) -> None:
    packing.pack_source("first")
    packing.pack_source("second")
    server = packing.start("first=first.mar")
    (pid,) = server.worker_pids("first")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: set(server.worker_pids("first")) - {pid}, "another worker")
    assert server.register("second.mar", initial_workers=1).status_code == 200
    other_server = packing.start("second=second.mar")
    assert json.loads(other_server.predict("second", b"x").text)[0] == "3.0"
    assert len(packing.installers) == 1


def test_a_failure_is_shown_to_whoever_registers_and_leaves_nothing(packing: Packing) -> None:
    packing.pack("broken", "msdemo-that-nobody-has", PLAIN)
    packing.pack("fine", "numpy", PLAIN)
    server = packing.start("broken=broken.mar", "fine=fine.mar")
    (failed,) = [event for event in server.events if event.get("state") == "FAILED"]
    assert failed["reason"].startswith(PREFIX + "broken. ERROR: Could not find a version")
    assert (server.predict("fine", b"x").text, server.model_names()) == ("fine", ["fine"])
    unpacked, environments = server.unpacked(), packing.environments

    status, kind, message = error_of(server.register("broken.mar", initial_workers=1))
    assert (status, kind) == (400, "ModelException")
    assert message.startswith(PREFIX + "broken. ERROR: Could not find a version that satisfies the requirement msdemo")
    assert "No matching distribution found for msdemo-that-nobody-has" in message
    assert (server.model_names(), server.unpacked(), packing.environments) == (["fine"], unpacked, environments)


def test_without_the_switch_nothing_is_installed_and_the_log_says_how_to(packing: Packing) -> None:
    packing.pack("m", "msdemo-that-nobody-has", PLAIN)
    server = packing.start(install_py_dep_per_model="false")
    assert server.register("m.mar", initial_workers=1).status_code == 200
    assert server.predict("m", b"x").text == "fine"
    said = [line for line in server.log_text().splitlines() if "install_py_dep_per_model" in line]
    assert len(said) == 1 and "Model m: its requirements.txt is not installed; install_py_dep_per_model=true" in said[0]
    assert not packing.cache.exists()


@pytest.mark.parametrize(
    ("requirements", "hint"),
    [
        ("msdemo", "The archive's requirements are not installed: set install_py_dep_per_model=true."),
        (None, "Install it beside modelserver, or pack a requirements file"),
    ],
)
def test_who_registers_a_model_without_its_packages_learns_what_to_do(
    packing: Packing, requirements: str | None, hint: str
) -> None:
    handler = "import msdemo_that_nobody_has\n" + PLAIN
    if requirements:
        packing.pack("m", requirements, handler)
    else:
        packing.servers.archives.pack("m", handler)
    server = packing.start(install_py_dep_per_model="false")
    _, _, message = error_of(server.register("m.mar", initial_workers=1))
    assert f"ModuleNotFoundError: No module named 'msdemo_that_nobody_has' (m_handler.py, line 1) {hint}" in message


def test_a_name_that_is_taken_is_refused_before_anything_is_installed(packing: Packing) -> None:
    packing.pack("m", "", PLAIN)
    packing.pack_source("other")
    server = packing.start("m=m.mar")
    assert error_of(server.register("other.mar", model_name="m"))[0] == 409
    assert packing.installers == []


def test_a_server_that_is_told_to_stop_ends_an_installation_of_its_start(packing: Packing) -> None:
    packing.pack_source("m", HANGS)
    with ThreadPoolExecutor() as pool:
        start = pool.submit(packing.start, "m=m.mar")
        eventually(lambda: packing.installers, "pip runs")
        (server,) = packing.servers.running
        server.process.terminate()
        server.process.wait(STOP_DEADLINE_S)
        with pytest.raises(AssertionError, match="the server ended before 'ready'"):
            start.result()
    assert packing.environments == []


def test_a_client_that_leaves_does_not_end_a_registration_but_a_stop_does(packing: Packing) -> None:
    packing.pack_source("m", HANGS)
    server = packing.start()
    with ThreadPoolExecutor() as pool:
        registration = pool.submit(server.manage, "POST", "models", params={"url": "m.mar"}, timeout=4)
        eventually(lambda: packing.installers, "pip runs")
        with pytest.raises(requests.Timeout):
            registration.result()
    assert (len(packing.environments), server.model_names()) == (1, [])
    server.process.terminate()
    server.process.wait(STOP_DEADLINE_S)
    assert packing.environments == []
