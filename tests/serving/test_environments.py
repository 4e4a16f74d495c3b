"""Environments of models: real virtual environments, real pip, packages made on the spot."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import is_gone
from servers import eventually
from serving_fakes import Run
from wheels import write_source, write_wheel

from model_server.config.server import ServerConfig
from model_server.errors import InstallationFailed, ServerError
from model_server.serving.environments import Environments, cache_folder

PREFIX = "Custom pip package installation failed for model m. "

# What a worker would find.
LOOK = """
import importlib.util, json, sys, model_server.worker, handlers, msdemo
print(json.dumps([msdemo.version, sys.path, sys.prefix, importlib.util.find_spec("torch").origin]))
"""


class Shop:
    """Models on disk and the folder that keeps their environments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.marker = folder / "marker"

    def environments(self, **config: Any) -> Environments:
        return Environments(ServerConfig(requirements_cache=self.cache, **config))

    def model(self, *lines: str) -> Path:
        """A folder of its own, as an archive is unpacked into; the index is never asked."""
        root = self.folder / f"model-{uuid.uuid4().hex}"
        root.mkdir()
        (root / "requirements.txt").write_text("\n".join(["--no-index", *lines]))
        return root

    def with_wheel(self, version: str = "1.0", *lines: str) -> Path:
        root = self.model(f"./msdemo-{version}-py3-none-any.whl", *lines)
        write_wheel(root, version)
        return root

    def with_source(self, hook: str) -> Path:
        """Its installation adds a line to `marker`: the process that does it."""
        root = self.model("./msdemo-1.0.zip")
        note = f"print(os.getpid(), file=open({str(self.marker)!r}, 'a'), flush=True)"
        write_source(root, "1.0", f"{note}; {hook}")
        return root

    @property
    def installers(self) -> list[int]:
        return [int(line) for line in self.marker.read_text().split()] if self.marker.exists() else []

    @property
    def built(self) -> list[Path]:
        """Environments, complete or not."""
        return list(self.cache.glob("*/build-*"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return Shop(tmp_path)


def python_for(environments: Environments, root: Path) -> str:
    return asyncio.run(environments.python_for("m", root, "requirements.txt"))


def refused(environments: Environments, root: Path) -> str:
    with pytest.raises(InstallationFailed) as caught:
        python_for(environments, root)
    assert (caught.value.status, caught.value.type) == (400, "ModelException")
    return caught.value.message


def look(python: str) -> Any:
    return json.loads(subprocess.check_output([python, "-P", "-c", LOOK], cwd="/"))


# --- what an environment is ---


def test_own_packages_come_first_and_the_servers_are_there(shop: Shop) -> None:
    root = shop.with_wheel("1.0", "numpy", "transformers")
    write_wheel(root, "1.0", files={"msdemo.pth": "more", "more/a.py": ""})
    (root / "pip.py").write_text("raise SystemExit('a file of the archive, run for pip')")
    python = python_for(shop.environments(), root)
    found, path, prefix, torch = look(python)
    assert (found, torch) == ("1.0", importlib.util.find_spec("torch").origin)
    assert Path(prefix).is_relative_to(shop.cache) and Path(python).is_relative_to(prefix)
    own = [position for position, entry in enumerate(path) if entry.startswith(prefix)]
    servers = [position for position, entry in enumerate(path) if entry.startswith(sys.prefix)]
    assert len(own) == 2 and max(own) < min(servers)
    # What the server has already was not installed again.
    installed = {info.name for info in Path(prefix).glob("lib/python*/site-packages/*.dist-info")}
    assert installed == {"msdemo-1.0.dist-info"}
    assert not (Path(prefix) / "tmp").exists()


def test_a_package_of_the_server_in_another_version_stays_what_it_is(shop: Shop) -> None:
    """The interpreter is that of a virtual environment without pip, inside of which msdemo 2.0 is installed."""
    outer = shop.folder / "outer"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(outer)], check=True)
    (site_folder,) = outer.glob("lib/python*/site-packages")
    shutil.unpack_archive(write_wheel(shop.folder, "2.0"), site_folder, "zip")
    python = python_for(shop.environments(python=str(outer / "bin/python")), shop.with_wheel("1.0"))
    see = "import msdemo; print(msdemo.version)"
    seen = [subprocess.check_output([exe, "-c", see], text=True).strip() for exe in (python, outer / "bin/python")]
    assert seen == ["1.0", "2.0"]


# --- once per content ---


def test_pip_runs_once_for_a_content_across_models_and_restarts(shop: Shop) -> None:
    first = python_for(shop.environments(), shop.with_source("pass"))
    second = python_for(shop.environments(), shop.with_source("pass"))
    assert first == second
    assert len(shop.installers) == 1
    assert look(second)[0] == "1.0"


def test_another_content_is_another_environment(shop: Shop) -> None:
    environments = shop.environments()
    one, two = shop.with_wheel("1.0"), shop.with_wheel("2.0")
    assert [look(python_for(environments, root))[0] for root in (one, two)] == ["1.0", "2.0"]
    write_wheel(one, "1.0", requires="numpy")  # the same name, another file
    python_for(environments, one)
    assert len(shop.built) == 3


def test_two_servers_and_two_registrations_at_once_run_pip_once(shop: Shop) -> None:
    async def main() -> set[str]:
        servers = [shop.environments(), shop.environments()] * 2
        roots = [shop.with_source("pass") for _ in servers]
        waits = [one.python_for("m", root, "requirements.txt") for one, root in zip(servers, roots, strict=True)]
        return set(await asyncio.gather(*waits))

    assert len(asyncio.run(main())) == 1
    assert (len(shop.built), len(shop.installers)) == (1, 1)


def test_an_environment_without_its_interpreter_is_made_again(shop: Shop) -> None:
    root = shop.with_wheel()
    shutil.rmtree(Path(python_for(shop.environments(), root)).parents[1])
    assert look(python_for(shop.environments(), root))[0] == "1.0"


# --- failures ---


def test_a_package_that_does_not_exist(shop: Shop) -> None:
    message = refused(shop.environments(), shop.model("msdemo-that-nobody-has==9"))
    assert message.startswith(PREFIX + "ERROR: Could not find a version that satisfies the requirement msdemo-that")
    assert shop.built == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("numpy==0.0.1", f"(constraint) numpy=={version('numpy')}"),
        ("this is : no requirement", "Invalid requirement: 'this is : no requirement'"),
        ("./missing-1.0-py3-none-any.whl", "missing-1.0-py3-none-any.whl"),
        ("-r missing.txt", "missing.txt"),
        ("-e .", "requirements.txt has -e ./., but the environment outlives the archive's files"),
    ],
)
def test_requirements_that_cannot_be_met(shop: Shop, line: str, expected: str) -> None:
    message = refused(shop.environments(), shop.model(line))
    assert message.startswith(PREFIX) and expected in message
    assert shop.built == []


def test_a_requirement_that_would_replace_what_all_models_share_says_so(shop: Shop) -> None:
    root = shop.with_wheel()
    write_wheel(root, "1.0", requires="safetensors<0.0.1")
    message = refused(shop.environments(), root)
    assert f"All models share the server's torch=={version('torch')}, " in message
    assert message.endswith(f"safetensors=={version('safetensors')}: these are not replaced.")


def test_an_installation_that_breaks_shows_its_last_lines(shop: Shop) -> None:
    root = shop.with_source("raise SystemExit('the compiler is missing')")
    message = refused(shop.environments(), root)
    assert message.startswith(PREFIX + "error: subprocess-exited-with-error | ")
    assert "the compiler is missing" in message
    assert (shop.built, len(shop.installers)) == ([], 1)
    refused(shop.environments(), root)  # a failure is not remembered
    assert len(shop.installers) == 2


def test_one_that_takes_too_long_is_ended_with_all_it_started(shop: Shop, no_process_left: None) -> None:
    environments = shop.environments(requirements_timeout_s=5)
    message = refused(environments, shop.with_source("import signal; signal.pause()"))
    assert message.startswith(PREFIX + "It was not done within requirements_timeout=5 seconds. ")
    assert "Processing ./msdemo-1.0.zip" in message
    eventually(lambda: is_gone(shop.installers[0]), "the installer is gone")
    assert shop.built == []


def test_a_cancelled_wait_ends_it_too(shop: Shop, real_time: Run, no_process_left: None) -> None:
    async def main() -> None:
        root = shop.with_source("import signal; signal.pause()")
        wait = asyncio.ensure_future(shop.environments().python_for("m", root, "requirements.txt"))
        while not shop.installers:
            await asyncio.sleep(0.01)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        eventually(lambda: is_gone(shop.installers[0]), "the installer is gone")
        assert shop.built == []

    real_time(main())


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.15, 0.25])
def test_cancelled_at_any_moment(shop: Shop, real_time: Run, no_process_left: None, delay_s: float) -> None:
    """The programs start one after the other; uvloop forgets one that is cancelled while it starts."""

    async def main() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await shop.environments().python_for("m", shop.with_wheel(), "requirements.txt")
        assert shop.built == []

    real_time(main())


@pytest.mark.parametrize("python", ["/bin/false", "/bin/true", "no-such-python"])
def test_an_interpreter_that_is_none(shop: Shop, python: str) -> None:
    with pytest.raises(ServerError, match=f"^{re.escape(PREFIX)}.*{python}") as caught:
        python_for(shop.environments(python=python), shop.with_wheel())
    assert caught.value.status == 500


def test_hidden_variables_are_hidden_from_what_is_installed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSDEMO_SECRET", "x")
    root = shop.with_source("assert 'MSDEMO_SECRET' not in os.environ")
    python_for(shop.environments(blacklist_env_vars=re.compile("MSDEMO_.*")), root)


# --- other servers, and servers that were killed ---


def test_what_a_killed_server_left_is_not_used(shop: Shop) -> None:
    root = shop.with_wheel()
    python = Path(python_for(shop.environments(), root))
    environment, cell = python.parents[1], python.parents[2]
    (cell / "current").unlink()  # as if it had been killed before the last step
    again = python_for(shop.environments(), root)
    assert look(again)[0] == "1.0"
    assert not environment.exists()
    assert shop.built == [Path(again).parents[1]]


def test_nothing_is_built_while_another_server_does(shop: Shop) -> None:
    root = shop.with_source("pass")
    (cell,) = _cells_after_a_failure(shop, root)
    with (cell / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(shop.environments(requirements_timeout_s=1), root)
    assert "not done within requirements_timeout=1 seconds" in message
    assert shop.installers == []
    python_for(shop.environments(), root)


def _cells_after_a_failure(shop: Shop, root: Path) -> list[Path]:
    with contextlib.suppress(InstallationFailed):
        # Too short a time for pip, long enough for the folder to be made.
        asyncio.run(_first_steps(shop, root))
    return list(shop.cache.iterdir())


async def _first_steps(shop: Shop, root: Path) -> None:
    wait = asyncio.ensure_future(shop.environments().python_for("m", root, "requirements.txt"))
    while not list(shop.cache.glob("*/lock")):
        await asyncio.sleep(0.001)
    wait.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await wait


SERVER = """
import asyncio, sys
from pathlib import Path
from model_server.config.server import ServerConfig
from model_server.serving.environments import Environments
environments = Environments(ServerConfig(requirements_cache=Path(sys.argv[1])))
asyncio.run(environments.python_for("m", Path(sys.argv[2]), "requirements.txt"))
"""


def test_the_lock_of_a_killed_server_is_held_until_its_pip_is_gone(shop: Shop) -> None:
    root = shop.with_source("import signal; signal.pause()")
    server = subprocess.Popen([sys.executable, "-P", "-c", SERVER, str(shop.cache), str(root)])
    eventually(lambda: shop.installers, "pip runs")
    (pip,) = [child for child in psutil.Process(server.pid).children() if "pip" in child.cmdline()]
    server.kill()
    server.wait()
    (lock,) = shop.cache.glob("*/lock")
    with lock.open() as file:
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.killpg(pip.pid, signal.SIGKILL)
        eventually(lambda: is_gone(pip.pid), "pip is gone")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- where they are kept ---


def test_the_folder_is_the_configured_one_or_the_users_or_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(tmp_path / "own/place", tmp_path) == tmp_path / "own/place"
    assert cache_folder(None, tmp_path) == tmp_path / "xdg/modelserver/environments"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder(None, tmp_path) == tmp_path / "home/.cache/modelserver/environments"
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))  # can never become a folder, for no user
    temporary = cache_folder(None, tmp_path)
    assert temporary == tmp_path / f"modelserver-environments-{os.getuid()}"
    assert temporary.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(shop: Shop, mode: int) -> None:
    shop.cache.mkdir()
    shop.cache.chmod(mode)
    with pytest.raises(ServerError, match=r"can be written by other users: .* or set requirements_cache"):
        python_for(shop.environments(), shop.with_wheel())
    assert list(shop.cache.iterdir()) == []
