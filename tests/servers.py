"""The real server for tests: started as a user starts it, asked over HTTP, and proven gone afterwards."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import psutil
import requests
import yaml

from archiver.pack import PackRequest, pack

_T = TypeVar("_T")

# Answers with everything that a handler can see of its request.
MIRROR = """
def shown(value):
    return [type(value).__name__, value.hex() if isinstance(value, (bytes, bytearray)) else value]


def handle(data, context):
    return data and [
        {
            "parts": {name: shown(value) for name, value in row.items()},
            "headers": context.get_all_request_header(index),
            "id": context.get_request_id(index),
            "version": context.manifest["model"]["modelVersion"],
            "batch": len(data),
        }
        for index, row in enumerate(data)
    ]
"""

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0
ANSWER_DEADLINE_S = 60.0

# Marks every process of one server, so that those whose parent is gone are found as well.
_MARK = "MODELSERVER_TEST_RUN"


def eventually(condition: Callable[[], _T | Literal[False] | None], what: str, deadline_s: float = 30.0) -> _T:
    """The first true value of `condition`; fails with `what` when there is none before the deadline."""
    end_s = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)
    return value


def together(*calls: Callable[[], _T]) -> list[_T]:
    """Runs all calls at the same time, each in a thread; their results in order."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """A response exactly as it was on the wire. Headers in order, in the server's own spelling."""

    status_line: str
    headers: list[tuple[str, str]]
    body: bytes
    closed: bool

    @property
    def status(self) -> int:
        return int(self.status_line.split(" ")[1])

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} occurs {len(values)} times"
        return values[0] if values else None


def exchange(url: str, request: bytes) -> RawAnswer:
    """Sends bytes, reads one response; `closed` says whether the server then ended the connection."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=ANSWER_DEADLINE_S) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            status_line = answer.readline().decode().rstrip("\r\n")
            lines = iter(lambda: answer.readline().decode().rstrip("\r\n"), "")
            headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
            length = next((value for name, value in headers if name.lower() == "content-length"), "0")
            body = answer.read(int(length))
            return RawAnswer(status_line, headers, body, _is_closed(connection))


def _is_closed(connection: socket.socket) -> bool:
    # A connection that stays open stays silent; one that is closed is readable at once or very soon.
    readable, _, _ = select.select([connection], [], [], 0.2)
    try:
        return bool(readable) and connection.recv(1) == b""
    except ConnectionResetError:
        return True


@dataclass
class Archives:
    """A model store that archives are packed into."""

    folder: Path

    def pack(
        self,
        name: str,
        handler: str,
        *,
        config: Mapping[str, Any] | None = None,
        file: str | None = None,
        **options: Any,
    ) -> Path:
        """Packs `handler`, the source of a handler file, as `NAME.mar`.

        Args:
            config: what model-config.yaml holds; None: the archive has none.
            file: another name for the archive's file.
            options: other fields of `archiver.pack.PackRequest`; `files`: more files by name, as extra files.
        """
        inputs = self.folder.parent / "inputs" / f"{name}-{uuid.uuid4().hex}"
        inputs.mkdir(parents=True)
        (inputs / f"{name}_handler.py").write_text(handler)
        extra = []
        for extra_name, content in options.pop("files", {}).items():
            (inputs / extra_name).write_bytes(content if isinstance(content, bytes) else content.encode())
            extra.append(str(inputs / extra_name))
        if config is not None:
            (inputs / "model-config.yaml").write_text(yaml.safe_dump(dict(config)))
            options["config_file"] = str(inputs / "model-config.yaml")
        options.setdefault("handler", str(inputs / f"{name}_handler.py"))
        options.setdefault("version", "1.0")
        self.folder.mkdir(exist_ok=True)
        request = PackRequest(name, extra_files=",".join(extra) or None, export_path=str(self.folder), **options)
        packed = pack(request)
        return packed.rename(self.folder / file) if file else packed


@dataclass(eq=False)
class Server:
    """One server in folders of its own. The state here is the process and what it has reported so far.

    Attributes:
        folder: working directory, log, configuration and temporary files lie here.
        tokens: whether requests need one.
        expected_exit: exit status that `stop` demands; a test that kills the server sets it.
    """

    folder: Path
    model_store: Path
    models: Sequence[str] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    args: Sequence[str] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    tokens: bool = False
    expected_exit: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._run = uuid.uuid4().hex
        self._unread = b""
        self.temp = self.folder / "tmp"
        self.log = self.folder / "server.log"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- life ---

    def start(self) -> None:
        """Returns when the start-up models are ready or have failed."""
        self.temp.mkdir(parents=True)
        self.model_store.mkdir(exist_ok=True)
        self._status_fd, write_fd = os.pipe()
        try:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen(
                    [*self._command(), "--status-fd", str(write_fd)],
                    cwd=self.folder,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(write_fd,),
                )
        finally:
            os.close(write_fd)
        listening = self.wait_event("listening")
        self.inference, self.management = listening["inference"], listening["management"]
        self.metrics = listening.get("metrics", "")
        self.grpc_inference, self.grpc_management = listening.get("grpc_inference"), listening.get("grpc_management")
        self.wait_event("ready")

    def stop(self) -> None:
        """Ends the server as an operator does; fails when it ends badly or leaves anything behind."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
            status = self.process.wait(STOP_DEADLINE_S)
            assert status == self.expected_exit, f"exit status {status}\n{self.log_text()}"
            eventually(lambda: not self.processes(), f"processes left behind: {self.processes()}", 5)
            if status == 0:
                assert list(self.temp.iterdir()) == [], "temporary files left behind"
        finally:
            os.close(self._status_fd)
            self._kill_all()

    def kill(self) -> None:
        """`kill -9` of the frontend."""
        self.expected_exit = -signal.SIGKILL
        self.process.kill()
        self.process.wait(STOP_DEADLINE_S)

    def _command(self) -> list[str]:
        config: dict[str, object] = {"metrics_address": "http://127.0.0.1:0"}
        config |= {"inference_address": "http://127.0.0.1:0", "management_address": "http://127.0.0.1:0"}
        config |= {"grpc_inference_port": "0", "grpc_management_port": "0", **self.config}
        properties = self.folder / "test.properties"
        properties.write_text("".join(f"{key}={value}\n" for key, value in config.items()))
        command = [sys.executable, "-P", "-m", "model_server.cli", "--start", "--foreground"]
        command += [
            "--ncs",
            *([] if self.tokens else ["--disable-token"]),
            "--model-store",
            str(self.model_store),
            "--ts-config",
            str(properties),
            *self.args,
        ]
        return command + (["--models", *self.models] if self.models else [])

    def _environment(self) -> dict[str, str]:
        settings: dict[str, str | None] = {
            **os.environ,
            # Where a test says nothing about devices, there are none.
            "CUDA_VISIBLE_DEVICES": "",
            "TMPDIR": str(self.temp),
            "TEMP": None,
            "TS_CONFIG_FILE": None,
            "OMP_NUM_THREADS": None,
            _MARK: self._run,
            **self.environment,
        }
        return {key: value for key, value in settings.items() if value is not None}

    def _kill_all(self) -> None:
        for process in [psutil.Process(self.process.pid)] if self.process.poll() is None else []:
            process.kill()
            self.process.wait()
        for process in self.processes():
            process.kill()

    # --- looking at it ---

    def wait_event(self, name: str, deadline_s: float = START_DEADLINE_S) -> dict[str, Any]:
        """The first status event of that name, read now or earlier."""
        end_s = time.monotonic() + deadline_s
        while not (found := [event for event in self.events if event["event"] == name]):
            readable, _, _ = select.select([self._status_fd], [], [], max(0, end_s - time.monotonic()))
            assert readable, f"no {name!r} event within {deadline_s:g} s\n{self.log_text()}"
            data = os.read(self._status_fd, 1 << 16)
            assert data, f"the server ended before {name!r}\n{self.log_text()}"
            *lines, self._unread = (self._unread + data).split(b"\n")
            self.events += map(json.loads, lines)
        return found[0]

    def log_text(self) -> str:
        """What it has printed, when nothing more has come for a moment: it writes its log in the background."""
        for _ in range(20):
            size = self.log.stat().st_size
            if self.process.poll() is not None:
                break
            time.sleep(0.03)
            if self.log.stat().st_size == size:
                break
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Every living process that comes from this server, but not the frontend itself."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def template(self) -> psutil.Process | None:
        """The process that workers are forked from. They have its command line, and names of their own."""
        found = [process for process in self.processes() if _is_template(process)]
        return found[0] if found else None

    def model_processes(self) -> list[psutil.Process]:
        """Workers and what they have started."""
        return [process for process in self.processes() if not _is_template(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            is_mine = process.environ().get(_MARK) == self._run and process.status() != psutil.STATUS_ZOMBIE
            return is_mine and process.pid != self.process.pid
        except psutil.Error:
            return False

    def worker_pids(self, name: str | None = None) -> list[int]:
        """Processes of the workers that are ready, of one model (every version) or of all."""
        names = [name] if name else [model["modelName"] for model in self.manage("GET", "models").json()["models"]]
        versions = [version for name in names for version in self.describe(name, "all")]
        return [worker["pid"] for version in versions for worker in version["workers"] if worker["status"] == "READY"]

    def wait_model_ready(self, name: str, workers: int = 1, version: str | None = None) -> dict[str, Any]:
        """Waits until at least this many workers are ready; returns the description."""

        def is_ready() -> dict[str, Any] | None:
            description = self.describe(name, version)[0]
            ready = sum(worker["status"] == "READY" for worker in description["workers"])
            return description if ready >= workers else None

        return eventually(is_ready, f"{workers} workers of {name} ready")

    def unpacked(self) -> list[str]:
        """Names of the folders that archives are unpacked into at the moment, and of anything left half done."""
        return sorted(path.name for folder in self.temp.glob("modelserver-*") for path in folder.iterdir())

    # --- asking ---

    def infer(self, method: str, path: str, **options: Any) -> requests.Response:
        return _request(method, f"{self.inference}/{path}", options)

    def manage(self, method: str, path: str, **options: Any) -> requests.Response:
        return _request(method, f"{self.management}/{path}", options)

    def predict(self, name: str, data: Any = b"", **options: Any) -> requests.Response:
        return self.infer("POST", f"predictions/{name}", data=data, **options)

    def predict_together(self, name: str, bodies: Sequence[Any]) -> list[requests.Response]:
        """One request per body, all at the same time."""
        return together(*(lambda body=body: self.predict(name, body) for body in bodies))

    def describe(self, name: str, version: str | None = None) -> list[dict[str, Any]]:
        answer = self.manage("GET", f"models/{name}" + (f"/{version}" if version else ""))
        assert answer.status_code == 200, answer.text
        description: list[dict[str, Any]] = answer.json()
        return description

    def register(self, url: str, **parameters: object) -> requests.Response:
        return self.manage("POST", "models", params={"url": url, **parameters})

    def model_names(self) -> list[str]:
        return [model["modelName"] for model in self.manage("GET", "models").json()["models"]]


def _is_template(process: psutil.Process) -> bool:
    try:
        return "--template" in process.cmdline() and not process.name().startswith("W-")
    except psutil.Error:
        return False


def _request(method: str, url: str, options: dict[str, Any]) -> requests.Response:
    return requests.request(method, url, **{"timeout": ANSWER_DEADLINE_S, **options})


def error_of(answer: requests.Response) -> tuple[int, str, str]:
    """Status, `type` and `message` of an error; the body holds these three keys and nothing else."""
    document = answer.json()
    assert list(document) == ["code", "type", "message"]
    assert document["code"] == answer.status_code
    return document["code"], document["type"], document["message"]


class Servers:
    """Starts servers and packs archives under one folder; `close` stops them all.

    The state here is the list of servers started.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.archives = Archives(folder / "model_store")
        self.running: list[Server] = []

    def start(
        self,
        models: Sequence[str] = (),
        config: Mapping[str, object] | None = None,
        args: Sequence[str] = ("--enable-model-api",),
        environment: Mapping[str, str | None] | None = None,
        tokens: bool = False,
    ) -> Server:
        folder = self._folder / f"server-{len(self.running)}"
        server = Server(folder, self.archives.folder, models, config or {}, args, environment or {}, tokens)
        self.running.append(server)
        server.start()
        return server

    def close(self) -> None:
        errors = []
        for server in self.running:
            try:
                server.stop()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]
