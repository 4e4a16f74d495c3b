"""Pid file, stop, status pipe and the launcher's report, with small stand-ins for the server."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from model_server.config.errors import ConfigError
from model_server.launcher import EXIT_INTERRUPTED, Progress, Spawned, next_commands, spawn, stop_server, watch
from model_server.pid_file import PidFile
from model_server.status import StatusEvent, read_events, write_event

LISTENING = {"event": "listening", "inference": "http://127.0.0.1:8080", "management": "http://127.0.0.1:8081"}


@pytest.fixture
def pid_file(tmp_path: Path) -> PidFile:
    return PidFile(tmp_path / ".model_server.pid")


@contextmanager
def running(folder: Path, body: str, name: str = "modelserver") -> Iterator[subprocess.Popen[str]]:
    """A process whose command line is a server's. It runs `body`, says so, and waits for its standard input's end."""
    script = folder / name
    script.write_text(f"import signal, sys\n{body}\nprint('up', flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


# --- pid file ---


def test_default_place_is_torchserves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert PidFile().path == tmp_path / ".model_server.pid"


def test_claimed_file_holds_the_pid_and_is_private(pid_file: PidFile) -> None:
    with pid_file.claimed():
        assert pid_file.path.read_text() == str(os.getpid())
        assert pid_file.path.stat().st_mode & 0o777 == 0o600
    assert list(pid_file.path.parent.iterdir()) == []


def test_file_goes_when_the_server_fails(pid_file: PidFile) -> None:
    with pytest.raises(RuntimeError), pid_file.claimed():
        raise RuntimeError
    assert not pid_file.path.exists()


def test_file_of_another_server_is_left_alone(pid_file: PidFile) -> None:
    with pid_file.claimed():
        pid_file.path.write_text("1")
    assert pid_file.path.read_text() == "1"


def test_second_server_is_refused(pid_file: PidFile, tmp_path: Path) -> None:
    with running(tmp_path, "") as process:
        pid_file.path.write_text(str(process.pid))
        with pytest.raises(ConfigError) as caught, pid_file.claimed():
            pass
        assert pid_file.path.read_text() == str(process.pid)
    assert str(caught.value) == ("TorchServe is already running, please use torchserve --stop to stop TorchServe.")


def test_server_run_as_a_module_is_recognised(pid_file: PidFile, tmp_path: Path) -> None:
    with running(tmp_path, "", name="model_server.cli") as process:
        pid_file.path.write_text(f"{process.pid}\n")
        found = pid_file.running()
        assert found is not None and found.pid == process.pid


@pytest.mark.parametrize("content", ["", "abc", "-1", "0", "99999999999999999999", "4194305", "12 34"])
def test_file_that_names_no_process_is_an_orphan(
    pid_file: PidFile, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    pid_file.path.write_text(content)
    assert pid_file.running() is None
    assert capsys.readouterr().out == "Removing orphan pid file.\n"
    assert not pid_file.path.exists()


def test_number_used_again_by_another_program_is_an_orphan(pid_file: PidFile, tmp_path: Path) -> None:
    with running(tmp_path, "", name="editor") as process:
        pid_file.path.write_text(str(process.pid))
        assert pid_file.running() is None
        assert process.poll() is None


def test_own_number_is_an_orphan(pid_file: PidFile) -> None:
    """In a container every server is process 1, and a crash leaves a file that says so."""
    pid_file.path.write_text(str(os.getpid()))
    with pid_file.claimed():
        assert pid_file.path.read_text() == str(os.getpid())


def test_link_in_place_of_the_file_is_not_followed(pid_file: PidFile, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("1")
    pid_file.path.symlink_to(target)
    with pytest.raises(ConfigError, match="cannot be read"), pid_file.claimed():
        pass
    assert target.read_text() == "1"


def test_file_of_another_user_is_not_believed(pid_file: PidFile, monkeypatch: pytest.MonkeyPatch) -> None:
    pid_file.path.write_text("1")
    monkeypatch.setattr(os, "geteuid", lambda: pid_file.path.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        pid_file.running()


# --- stop ---


def test_nothing_to_stop(pid_file: PidFile, capsys: pytest.CaptureFixture[str]) -> None:
    assert stop_server(pid_file, wait=False) == 0
    assert capsys.readouterr().out == "TorchServe is not currently running.\n"


@pytest.mark.parametrize("wait", [False, True])
def test_stop_sends_sigterm(pid_file: PidFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], wait: bool) -> None:
    on_sigterm = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('told to end', flush=True)))"
    with running(tmp_path, on_sigterm) as process:
        pid_file.path.write_text(str(process.pid))
        assert stop_server(pid_file, wait) == 0
        assert process.stdout is not None and process.stdout.read() == "told to end\n"
    assert capsys.readouterr().out == "TorchServe has stopped.\n"
    assert not pid_file.path.exists()


def test_the_file_of_a_server_that_has_begun_meanwhile_is_left_alone(pid_file: PidFile, tmp_path: Path) -> None:
    next_server = f"open({str(pid_file.path)!r}, 'w').write('1')"
    with running(tmp_path, f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({next_server} and 0))") as process:
        pid_file.path.write_text(str(process.pid))
        assert stop_server(pid_file, wait=True) == 0
    assert pid_file.path.read_text() == "1"


def test_a_server_that_nobody_reaps_has_ended(pid_file: PidFile, tmp_path: Path) -> None:
    """As in a container whose first process does not care for orphans."""
    with running(tmp_path, "signal.signal(signal.SIGTERM, lambda *_: sys.exit())") as process:
        pid_file.path.write_text(str(process.pid))
        assert stop_server(pid_file, wait=True, timeout_s=10) == 0
        assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE


def test_stop_that_takes_too_long(pid_file: PidFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)") as process:
        pid_file.path.write_text(str(process.pid))
        assert stop_server(pid_file, wait=True, timeout_s=0.05) == 1
        assert process.poll() is None
    assert capsys.readouterr().out == "Stopping TorchServe took too long.\n"
    assert pid_file.path.exists()


# --- status pipe ---


def test_events_survive_the_pipe() -> None:
    events = [
        StatusEvent(event="listening", inference="http://127.0.0.1:1", management="unix:/tmp/x"),
        StatusEvent(event="model", name="m", version="1.0", state="FAILED", reason="ü\nline"),
        StatusEvent(event="ready"),
    ]
    read_fd, write_fd = os.pipe()
    for event in events:
        write_event(write_fd, event)
    os.close(write_fd)
    assert list(read_events(read_fd)) == events
    os.close(read_fd)


def test_a_launcher_that_left_does_not_disturb_the_server() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    write_event(write_fd, StatusEvent(event="ready"))
    os.close(write_fd)


def test_silence_ticks() -> None:
    read_fd, write_fd = os.pipe()
    events = read_events(read_fd, tick_s=0.001)
    assert next(events) is None
    os.write(write_fd, b'{"event": "rea')
    assert next(events) is None
    os.write(write_fd, b'dy", "unknown": 1}\n')
    assert StatusEvent(event="ready") in (next(events), next(events))
    os.close(write_fd)
    os.close(read_fd)


# --- watching a server come up ---


@contextmanager
def spawned(folder: Path, events: Sequence[object], then: str = "") -> Iterator[Spawned]:
    """A stand-in for the server: writes `events` to its status pipe, then runs `then`."""
    script = folder / "fake_server.py"
    script.write_text(
        "import json, os, signal, sys\n"
        "fd = int(sys.argv[sys.argv.index('--status-fd') + 1])\n"
        f"for event in {list(events)!r}:\n"
        "    os.write(fd, json.dumps(event).encode() + b'\\n')\n"
        f"{then}\n"
    )
    server = spawn([sys.executable, str(script), "--models", "x"])
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def test_server_comes_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events = [
        LISTENING,
        {"event": "model", "name": "bert", "version": "1.0", "state": "LOADING"},
        {"event": "started"},
        {"event": "model", "name": "bert", "version": "1.0", "state": "READY", "takes_text": True},
        {"event": "model", "name": "image", "version": "1.0", "state": "READY", "takes_text": False},
        {"event": "ready"},
    ]
    with spawned(tmp_path, events, then="signal.pause()") as server:
        assert watch(server, Progress(io.StringIO())) == 0
        assert server.process.poll() is None
    out = capfd.readouterr().out
    assert "curl http://127.0.0.1:8080/predictions/bert -H 'Content-Type: text/plain' -d" in out
    assert "curl http://127.0.0.1:8080/predictions/image -T FILE\n" in out
    assert "curl http://127.0.0.1:8081/models" in out
    assert "modelserver --stop" in out


def test_failed_model_is_named_and_the_server_is_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    err = io.StringIO()
    failed = {"event": "model", "name": "bad", "version": "2.0", "state": "FAILED", "reason": "no handler"}
    with spawned(tmp_path, [LISTENING, failed, {"event": "ready"}]) as server:
        assert watch(server, Progress(err)) == 0
    assert "bad 2.0 FAILED" in err.getvalue() and "no handler" in err.getvalue()
    assert "predictions/bad" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("events", "then", "message"),
    [
        ([{"event": "error", "message": "port 8080 is taken"}], "sys.exit(1)", "port 8080 is taken"),
        ([], "sys.exit(3)", "exit status 3"),
        ([LISTENING], "sys.exit(3)", "exit status 3"),
        ([LISTENING], "os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
        ([{"event": "ready"}], "", "exit status 0"),
    ],
)
def test_server_that_does_not_come_up(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], events: list[object], then: str, message: str
) -> None:
    err = io.StringIO()
    with spawned(tmp_path, events, then) as server:
        assert watch(server, Progress(err)) == 1
    assert message in err.getvalue()
    assert "curl" not in capfd.readouterr().out


def test_server_is_detached(tmp_path: Path) -> None:
    where = {"event": "error", "message": "x"}
    then = (
        "os.write(fd, json.dumps({'event': 'error', 'message': "
        "f'{os.getsid(0) == os.getpid()} {sys.stdin.read()!r}'}).encode() + b'\\n')"
    )
    err = io.StringIO()
    with spawned(tmp_path, [where], then) as server:
        watch(server, Progress(err))
    assert "True ''" in err.getvalue()


def test_interrupted_launcher_leaves_the_server_running(tmp_path: Path) -> None:
    class Interrupting(Progress):
        def take(self, event: StatusEvent | None) -> None:
            raise KeyboardInterrupt

    err = io.StringIO()
    with spawned(tmp_path, [LISTENING], then="signal.pause()") as server:
        assert watch(server, Interrupting(err)) == EXIT_INTERRUPTED
        assert server.process.poll() is None
    assert "modelserver --stop" in err.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_gets_one_line_that_is_updated() -> None:
    err = Terminal()
    progress = Progress(err)
    progress.take(StatusEvent(event="model", name="m", version="1.0", state="LOADING"))
    progress.take(None)
    progress.take(None)
    assert err.getvalue().count("loading m 1.0") == 2
    assert "\n" not in err.getvalue()


def test_no_terminal_gets_no_ticks() -> None:
    err = io.StringIO()
    Progress(err).take(None)
    assert err.getvalue() == ""


def test_commands_for_sockets_and_odd_names() -> None:
    listening = StatusEvent(event="listening", inference="unix:/tmp/a b.sock", management="unix:/tmp/m.sock")
    ready = StatusEvent(event="model", name="my model;rm", state="READY")
    lines = next_commands(listening, [ready])
    assert "  curl --unix-socket '/tmp/a b.sock' http://localhost/predictions/my%20model%3Brm" in lines[1]
    assert "  curl --unix-socket /tmp/m.sock http://localhost/models" in lines
