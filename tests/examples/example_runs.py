"""The commands of an example, run as a user types them: the ```bash blocks of its README, in one shell.

Commands that must not run in a test, such as `pip install`, stand in ```console blocks.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import psutil
from servers import eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE_S = 400

# Marks every process that an example starts, so that those whose parent is gone are found as well.
_MARK = "MODELSERVER_EXAMPLE_RUN"
_LEFTOVERS = shutil.ignore_patterns("__pycache__", "*.draft", "*.mar", "model_store", "logs", "Transformer_model")


def copy_examples(folder: Path) -> Path:
    """All examples, without what running them left there."""
    return Path(shutil.copytree(EXAMPLES, folder / "examples", ignore=_LEFTOVERS))


def blocks(readme: Path) -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_script(script: str, folder: Path, temp: Path, environment: Mapping[str, str] | None = None) -> str:
    """What a script prints that is run in `folder` with ports of its own in place of 8080 and 8081.

    Fails when a command does, when it takes too long, and when a process is left behind.
    """
    ports = _free_ports()
    _listen_on(folder, ports)
    script = script.replace(":8080", f":{ports[0]}").replace(":8081", f":{ports[1]}")
    return _run(f"set -e\n{script}", folder, temp, environment or {})


def _free_ports() -> tuple[int, int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        inference, management = (listener.getsockname()[1] for listener in sockets)
    return inference, management


def _listen_on(folder: Path, ports: tuple[int, int]) -> None:
    """Adds the addresses to the example's properties, or to the file that a server reads unasked."""
    files = list(folder.glob("*.properties"))
    for file in {*files, folder / "config.properties"}:
        with file.open("a", encoding="utf-8") as properties:
            properties.write(f"\ninference_address=http://127.0.0.1:{ports[0]}\n")
            properties.write(f"management_address=http://127.0.0.1:{ports[1]}\n")
            properties.write("metrics_address=http://127.0.0.1:0\ngrpc_inference_port=0\ngrpc_management_port=0\n")


def _run(script: str, folder: Path, temp: Path, environment: Mapping[str, str]) -> str:
    run = uuid.uuid4().hex
    log = temp / "output.txt"
    try:
        with log.open("wb") as output:
            # A file and no pipe: a server that was left behind would keep a pipe open.
            status = subprocess.run(
                ["bash"],
                input=script.encode(),
                cwd=folder,
                env={**_environment(temp, run), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=DEADLINE_S,
            ).returncode
        text = log.read_text(encoding="utf-8", errors="replace")
        assert status == 0, f"exit status {status}\n{text}"
        eventually(lambda: not _processes(run), f"processes left behind: {_processes(run)}\n{text}", 5)
    finally:
        for process in _processes(run):
            process.kill()
    return text


def _environment(temp: Path, run: str) -> dict[str, str]:
    for name in ("tmp", "home"):
        (temp / name).mkdir()
    set_by_users = ("TEMP", "TS_CONFIG_FILE", "LOG_LOCATION")
    return {key: value for key, value in os.environ.items() if key not in set_by_users} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "TMPDIR": str(temp / "tmp"),
        "HOME": str(temp / "home"),
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        _MARK: run,
    }


def _processes(run: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _is_of(process, run)]


def _is_of(process: psutil.Process, run: str) -> bool:
    try:
        return process.environ().get(_MARK) == run and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
