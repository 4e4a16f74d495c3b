"""Starting and stopping a server from a Python script, as `ts.launcher` does it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import IO, TYPE_CHECKING, Any

from model_server.config.properties import decode_properties, parse_properties
from model_server.launcher import stop_server
from model_server.pid_file import PidFile

if TYPE_CHECKING:
    import requests

MANAGEMENT_URL = "http://localhost:8081"
STARTED = "Model server started"
_MOST_LINES = 1000
_REQUEST_TIMEOUT_S = 600


def start(
    model_store: str | Path | None = None,
    snapshot_file: str | Path | None = None,
    no_config_snapshots: bool = False,
    plugin_folder: str | None = None,
    disable_token: bool = False,
    models: str | None = None,
    enable_model_api: bool = False,
) -> Queue[str | None]:
    """Stops the running server, if there is one, and starts another; returns when it is up.

    Its output is printed here and collected as well.

    Args:
        model_store: folder with the archives.
        snapshot_file: a configuration file.
        plugin_folder: accepted for TorchServe's sake; no effect.
        models: `name=archive`, or several of them separated by commas.

    Returns:
        The lines that come after the start, None behind the last one. Lines that nobody takes are dropped once there
        are 1,000.

    Raises:
        TypeError: there is no model_store.
        RuntimeError: the server did not start; its output is in the message.
    """
    if model_store is None:
        raise TypeError("start() needs model_store, the folder with the archives")
    flags = {
        "--ncs": no_config_snapshots,
        "--disable-token-auth": disable_token,
        "--enable-model-api": enable_model_api,
    }
    options = {"--ts-config": snapshot_file, "--plugins-path": plugin_folder, "--models": models}
    words = [flag for flag, is_on in flags.items() if is_on]
    words += [word for flag, value in options.items() if value for word in (flag, str(value))]
    stop()
    return _started(["--model-store", str(model_store), *words])


def stop(wait: bool = True) -> None:
    """Ends the running server; with `wait` it has ended when this returns."""
    stop_server(PidFile(), wait)


def register_model(model_name: str, url: str) -> requests.Response:
    """Registers an archive with one worker and waits for it."""
    return register_model_with_params(
        {"model_name": model_name, "url": url, "initial_workers": "1", "synchronous": "true"}
    )


def register_model_with_params(params: Mapping[str, Any]) -> requests.Response:
    """Registers a model at the default management address; needs `start(..., enable_model_api=True)`."""
    import requests

    return requests.post(f"{MANAGEMENT_URL}/models", params=params, timeout=_REQUEST_TIMEOUT_S)


def load_properties(file_path: str | Path) -> dict[str, str]:
    """A configuration file as a dict.

    Raises:
        OSError: it cannot be read.
        InvalidConfiguration: it is not in the format of Java properties.
    """
    text = decode_properties(Path(file_path).read_bytes())
    return {entry.key: entry.value for entry in parse_properties(text, str(file_path))}


def _started(words: list[str]) -> Queue[str | None]:
    # -P: a folder called `handlers` where the user happens to be must not stand in for ours.
    command = [sys.executable, "-P", "-m", "model_server.cli", "--start", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        print(line, end="", flush=True)
        seen.append(line)
        if STARTED in line:
            return _rest_of(process, process.stdout)
    process.stdout.close()
    raise RuntimeError(f"The server did not start, exit status {process.wait()}:\n{''.join(seen)}")


def _rest_of(process: subprocess.Popen[str], output: IO[str]) -> Queue[str | None]:
    lines: Queue[str | None] = Queue(_MOST_LINES)
    Thread(target=_follow, args=(process, output, lines), name="server-output", daemon=True).start()
    return lines


def _follow(process: subprocess.Popen[str], output: IO[str], lines: Queue[str | None]) -> None:
    with output:
        for line in output:
            print(line, end="", flush=True)
            try:
                lines.put_nowait(line)
            except Full:
                pass
    process.wait()
    lines.put(None)
