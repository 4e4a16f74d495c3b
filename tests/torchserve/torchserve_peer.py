"""A running TorchServe: started by its own command, asked over HTTP, and proven gone afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from servers import eventually
from torchserve_install import torchserve_python
from wire_exchange import Address

START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0

# Marks Java and every worker of one run.
_MARK = "TORCHSERVE_TEST_RUN"
# In the log once for every worker that is ready.
_LOADED = b"WORKER_STARTED -> WORKER_MODEL_LOADED"
# A small JVM that starts fast: these servers live for a minute.
_JVM = "-Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"


@dataclass(eq=False)
class TorchServe:
    """TorchServe in folders of its own. The state here is the process.

    Attributes:
        folder: working directory, log, configuration and temporary files lie here.
        models: files of the model store that are loaded at start, with one worker each.
        config: more lines of config.properties.
        tokens: whether requests need one.
        model_api: whether models may be registered and unregistered.
    """

    folder: Path
    model_store: Path
    models: Sequence[str] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    tokens: bool = False
    model_api: bool = True

    def __post_init__(self) -> None:
        self._run = uuid.uuid4().hex
        self._temp = self.folder / "tmp"
        self.log = self.folder / "torchserve.log"

    def start(self) -> None:
        """Returns when the models of the start are ready."""
        self._temp.mkdir(parents=True)
        inference, management, *grpc = _free_ports(4)
        self.inference = Address("127.0.0.1", inference)
        self.management = Address("127.0.0.1", management)
        self.grpc_inference, self.grpc_management = (Address("127.0.0.1", port) for port in grpc)
        self._write_config(grpc)
        with self.log.open("wb") as log:
            self._launcher = subprocess.Popen(
                self._command("--start", "--foreground", *self._start_options()),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        eventually(self._is_ready, f"TorchServe ready\n{self.log}", START_DEADLINE_S)

    def stop(self) -> None:
        """Ends TorchServe as its operator does; fails when Java or a worker stays."""
        try:
            subprocess.run(
                self._command("--stop", "--foreground"),
                env=self._environment(),
                timeout=STOP_DEADLINE_S,
                stdout=subprocess.DEVNULL,
                check=True,
            )
            self._launcher.wait(STOP_DEADLINE_S)
            eventually(lambda: not self.processes(), f"processes of TorchServe left: {self.processes()}", 10)
        finally:
            for process in self.processes():
                process.kill()
            self._launcher.wait(STOP_DEADLINE_S)

    def processes(self) -> list[psutil.Process]:
        """Every living process of this run."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def _is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._run and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def _command(self, *options: str) -> list[str]:
        return [str(torchserve_python()), "-P", "-m", "ts.model_server", *options]

    def _start_options(self) -> list[str]:
        options = ["--ncs", "--model-store", str(self.model_store)]
        options += ["--enable-model-api"] if self.model_api else []
        options += ["--ts-config", str(self.folder / "config.properties")]
        options += [] if self.tokens else ["--disable-token-auth"]
        return options + (["--models", *self.models] if self.models else [])

    def _write_config(self, grpc_ports: Sequence[int]) -> None:
        config = {
            "inference_address": f"http://{self.inference}",
            "management_address": f"http://{self.management}",
            "grpc_inference_port": grpc_ports[0],
            "grpc_management_port": grpc_ports[1],
            "enable_metrics_api": "false",
            "disable_system_metrics": "true",
            "vmargs": _JVM,
            **self.config,
        }
        lines = "".join(f"{key}={value}\n" for key, value in config.items())
        (self.folder / "config.properties").write_text(lines)

    def _environment(self) -> dict[str, str]:
        unwanted = {"PYTHONPATH", "TS_CONFIG_FILE", "LOG_LOCATION", "METRICS_LOCATION"}
        inherited = {key: value for key, value in os.environ.items() if key not in unwanted}
        return {
            **inherited,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self._temp),
            "TEMP": str(self._temp),
            _MARK: self._run,
        }

    def _is_ready(self) -> bool:
        assert self._launcher.poll() is None, f"TorchServe ended\n{self.log.read_text(errors='replace')}"
        # Asking for descriptions would cost the starting server more than it has.
        log = self.log.read_bytes()
        return b"Model server started" in log and log.count(_LOADED) == len(self.models)


def _free_ports(count: int) -> list[int]:
    """TorchServe does not say which port it got, so it cannot be told to take any."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
