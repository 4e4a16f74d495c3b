"""Start the server in the background, watch it come up, stop it.

The server is a child in a session of its own. It tells the launcher how it is doing through a pipe, one JSON object
per line, see `status.StatusEvent`. The pipe's end before `ready` is the server's end.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

import psutil

from model_server.pid_file import PidFile
from model_server.status import StatusEvent, read_events
from model_server.tokens import KEY_FILE, Scope, remove_keys

# Texts that scripts made for TorchServe look for.
NOT_RUNNING = "TorchServe is not currently running."
STOPPED = "TorchServe has stopped."
ALREADY_STOPPED = "TorchServe already stopped."
STOP_TOOK_TOO_LONG = "Stopping TorchServe took too long."

STOP_COMMAND = "modelserver --stop"
STOP_TIMEOUT_S = 60.0
EXIT_INTERRUPTED = 130


def stop_server(pid_file: PidFile, wait: bool, timeout_s: float = STOP_TIMEOUT_S) -> int:
    """Tell the server to end; with `wait`, until it has. Returns the exit status.

    The key file in the working directory goes as well, as with TorchServe: a server that dies badly leaves it there.
    """
    process = pid_file.running()
    if process is None:
        print(NOT_RUNNING)
        return 0
    try:
        process.terminate()
        remove_keys(Path(KEY_FILE))
        if wait:
            _wait_end(process, timeout_s)
        print(STOPPED)
    except psutil.NoSuchProcess:
        print(ALREADY_STOPPED)
    except psutil.TimeoutExpired:
        print(STOP_TOOK_TOO_LONG)
        return 1
    pid_file.release(process.pid)
    return 0


def _wait_end(process: psutil.Process, timeout_s: float) -> None:
    """Raises `psutil.TimeoutExpired`. A process that nobody reaps, as in containers without an init, has ended."""
    deadline_s = time.monotonic() + timeout_s
    with suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline_s:
                raise psutil.TimeoutExpired(timeout_s, process.pid)
            time.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A server on its way up. Whoever spawned it closes `status_fd`."""

    process: subprocess.Popen[bytes]
    status_fd: int


def spawn(command: Sequence[str]) -> Spawned:
    """Run `command --status-fd N` detached from the terminal; its output goes where ours goes."""
    read_fd, write_fd = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, "--status-fd", str(write_fd)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(write_fd,),
        )
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    return Spawned(process, read_fd)


@dataclass(slots=True)
class Progress:
    """What is known of a server on its way up. The state here is changed by `take` only.

    `options`: what commands need to find this server, beginning with a blank.
    """

    err: TextIO = field(default_factory=lambda: sys.stderr)
    started_s: float = field(default_factory=time.monotonic)
    options: str = ""
    listening: StatusEvent | None = None
    error: str | None = None
    is_ready: bool = False
    models: dict[str, StatusEvent] = field(default_factory=dict)

    @property
    def stop_command(self) -> str:
        return STOP_COMMAND + self.options

    def take(self, event: StatusEvent | None) -> None:
        """Account for one event, or for time that went by."""
        match event:
            case None:
                self._show_waiting()
            case StatusEvent(event="listening"):
                self.listening = event
            case StatusEvent(event="model", name=str(name)):
                self.models[f"{name} {event.version or ''}".strip()] = event
                self._show_model(event)
            case StatusEvent(event="error"):
                self.error = event.message
            case StatusEvent(event="ready"):
                self.is_ready = True

    def say(self, line: str) -> None:
        clear = "\r\033[K" if self.err.isatty() else ""
        print(f"{clear}{line}", file=self.err, flush=True)

    def _show_waiting(self) -> None:
        if not self.err.isatty():
            return
        loading = [name for name, event in self.models.items() if event.state not in ("READY", "FAILED")]
        what = f"loading {', '.join(loading)}" if loading else "starting"
        print(f"\r\033[K{time.monotonic() - self.started_s:.0f} s: {what} ...", end="", file=self.err, flush=True)

    def _show_model(self, event: StatusEvent) -> None:
        elapsed = f"{time.monotonic() - self.started_s:.1f} s"
        name = f"{event.name} {event.version or ''}".strip()
        if event.state == "READY":
            self.say(f"{name} is ready ({elapsed})")
        elif event.state == "FAILED":
            self.say(f"{name} FAILED ({elapsed}): {event.reason or 'no reason given, see the log'}")


def watch(server: Spawned, progress: Progress) -> int:
    """Follow a server until it is ready or gone. Returns the exit status: 0 when it is up, even if a model failed."""
    progress.say("Starting the model server ...")
    try:
        for event in read_events(server.status_fd):
            progress.take(event)
            if progress.is_ready:
                break
    except KeyboardInterrupt:
        progress.say(f"The server goes on starting in the background. Stop it with: {progress.stop_command}")
        return EXIT_INTERRUPTED
    finally:
        os.close(server.status_fd)
    if not progress.is_ready or progress.listening is None:
        progress.say(progress.error or _ending(server.process, progress.stop_command))
        return 1
    print("\n".join(next_commands(progress.listening, progress.models.values(), progress.options)), flush=True)
    return 0


def _ending(process: subprocess.Popen[bytes], stop_command: str) -> str:
    try:
        status = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        how = f"or closed its status pipe (process {process.pid} is still there; stop it with: {stop_command})"
    else:
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"The server ended while it was starting, {how}."


def next_commands(listening: StatusEvent, models: Iterable[StatusEvent], options: str = "") -> list[str]:
    """What to try next, as lines for a shell."""
    ready = [event for event in models if event.state == "READY" and event.name]
    inference = _token_option(listening, "inference", options)
    management = _token_option(listening, "management", options)
    return [
        "The server is up. Try:",
        *(f"  {_prediction(listening.inference, event)}{inference}{_body(event)}" for event in ready),
        f"  {_curl(listening.inference, '/ping')}",
        f"  {_curl(listening.management, '/models')}{management}",
        *([f"The tokens are in {listening.key_file}"] if listening.key_file else []),
        "Stop it with:",
        f"  {STOP_COMMAND}{options}",
    ]


def _prediction(listener: str | None, event: StatusEvent) -> str:
    return _curl(listener, "/predictions/" + quote(event.name or "", safe=""))


def _body(event: StatusEvent) -> str:
    """What a handler of somebody's own takes, only they know."""
    return " -H 'Content-Type: text/plain' -d 'It is a lovely day.'" if event.takes_text else " -T FILE"


def _token_option(listening: StatusEvent, scope: Scope, options: str) -> str:
    """Reads the key when the line is run: what the launcher prints ends up in log files."""
    return f' -H "$(modelserver token show {scope}{options})"' if listening.key_file else ""


def _curl(listener: str | None, path: str) -> str:
    url = listener or ""
    if url.startswith("unix:"):
        return f"curl --unix-socket {shlex.quote(url.removeprefix('unix:'))} {shlex.quote(f'http://localhost{path}')}"
    # Nobody knows whether this machine trusts the certificate, and for which name it was made.
    insecure = "-k " if url.startswith("https:") else ""
    return f"curl {insecure}{shlex.quote(url + path)}"
