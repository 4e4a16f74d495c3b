"""`modelserver token`: what it prints, where it looks, and what it says when there is nothing to print."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from certificates import Issued, issue

from model_server import cli
from model_server.config.errors import ConfigError
from model_server.launcher import next_commands, stop_server
from model_server.pid_file import PidFile
from model_server.status import StatusEvent
from model_server.token_command import main
from model_server.tokens import KEY_FILE, KEY_NAMES, Token, write_keys

FUTURE = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server or key file of the developer's gets into a test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def make_file(path: Path, inference_expires: datetime = FUTURE) -> Path:
    inference = Token("i-key", inference_expires)
    write_keys(path, {"management": Token("m-key", FUTURE), "inference": inference, "API": Token("a-key")})
    return path


# --- show ---


@pytest.mark.parametrize(
    ("name", "key"), [("management", "m-key"), ("inference", "i-key"), ("API", "a-key"), ("api", "a-key")]
)
def test_the_header_alone_is_printed(capsys: pytest.CaptureFixture[str], name: str, key: str) -> None:
    make_file(Path(KEY_FILE))
    assert main(["show", name]) == 0
    assert capsys.readouterr() == (f"Authorization: Bearer {key}\n", "")


def test_a_file_that_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_file(Path(KEY_FILE))
    (tmp_path / "b").mkdir()
    write_keys(tmp_path / "b" / "k", {"management": Token("x"), "inference": Token("y"), "API": Token("z")})
    assert main(["show", "inference", "--key-file", "b/k"]) == 0
    assert capsys.readouterr().out == "Authorization: Bearer y\n"


def test_an_expired_token_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    make_file(Path(KEY_FILE), inference_expires=datetime(2026, 1, 1, tzinfo=UTC))
    assert main(["show", "inference"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "expired at 2026-01-01 00:00:00+00:00. Get a new one with: modelserver token renew inference" in err


@contextmanager
def server_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that looks like a server started in `folder`, with its pid file."""
    (folder / "modelserver").write_text("print('up', flush=True)\ninput()\n")
    command = [sys.executable, "modelserver"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "up\n"
            PidFile().path.write_text(str(process.pid))
            yield process
        finally:
            process.kill()


def test_the_running_server_is_found_from_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    make_file(tmp_path / "there" / KEY_FILE)
    with server_process(tmp_path / "there"):
        assert main(["show", "management"]) == 0
    assert capsys.readouterr().out == "Authorization: Bearer m-key\n"


def test_the_server_that_a_pid_file_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_file(Path(KEY_FILE))
    (tmp_path / "there").mkdir()
    write_keys(tmp_path / "there" / KEY_FILE, {name: Token("theirs") for name in KEY_NAMES})
    with server_process(tmp_path / "there"):
        PidFile().path.rename(tmp_path / "my.pid")
        assert main(["show", "management", "--pid-file", str(tmp_path / "my.pid")]) == 0
        assert capsys.readouterr().out == "Authorization: Bearer theirs\n"
        assert main(["show", "management"]) == 0
        assert capsys.readouterr().out == "Authorization: Bearer m-key\n"
    assert main(["show", "management", "--pid-file", str(tmp_path / "gone.pid")]) == 1
    assert "no running server that has one" in capsys.readouterr().err


def test_a_running_server_without_tokens(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with server_process(tmp_path / "there"):
        assert main(["show", "management"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Error: There is no {KEY_FILE} here, and no running server that has one")


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    """What the orphan's pid file makes us say must not end up in a header."""
    PidFile().path.write_text("not a number")
    assert main(["show", "management"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "started without tokens" in err


@pytest.mark.parametrize("text", ["", "{}", "no json"])
def test_another_kind_of_file(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path(KEY_FILE).write_text(text)
    assert main(["show", "management"]) == 1
    assert capsys.readouterr() == ("", f"Error: {KEY_FILE} is not the key file of a server.\n")


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "management", "--key-file", "gone"]) == 1
    assert capsys.readouterr().err == "Error: The key file gone cannot be read: No such file or directory.\n"


@pytest.mark.parametrize("words", [["show"], ["show", "root"], ["renew", "API"], ["forge"], ["show", "API", "x"], []])
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 2
    assert "Usage: modelserver token" in "".join(capsys.readouterr())


def test_the_command_line_knows_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    make_file(Path(KEY_FILE))
    monkeypatch.setattr(sys, "argv", ["modelserver", "token", "show", "API"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert (caught.value.code, capsys.readouterr().out) == (0, "Authorization: Bearer a-key\n")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "renew" in capsys.readouterr().out


# --- renew ---


@contextmanager
def management(
    status: int, body: bytes = b"\n", issued: Issued | None = None
) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A listener that answers everything so; its address and what it was asked. On success it writes a new key file."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            if status == 200:
                write_keys(
                    Path(KEY_FILE), {"management": Token("new"), "inference": Token("newer"), "API": Token("a-key")}
                )
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listener:
        if issued is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(issued.chain, issued.private_key)
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
        thread = Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"{'https' if issued else 'http'}://127.0.0.1:{listener.server_port}", asked
        finally:
            listener.shutdown()
            thread.join()


def test_renewal_prints_the_new_header(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # the API key goes to the server and nowhere else
    make_file(Path(KEY_FILE))
    with management(200) as (url, asked):
        assert main(["renew", "inference", "--url", url]) == 0
    assert asked == [("/token?type=inference", "Bearer a-key")]
    assert capsys.readouterr() == ("Authorization: Bearer newer\n", "")


def test_renewal_over_https(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The API key goes to nobody who cannot prove who they are."""
    issued = issue(tmp_path / "tls")
    make_file(Path(KEY_FILE))
    with management(200, issued=issued) as (url, asked):
        assert main(["renew", "inference", "--url", url]) == 1
        assert "cannot be trusted" in capsys.readouterr().err
        assert main(["renew", "inference", "--url", url, "--cacert", KEY_FILE]) == 1
        assert f"--cacert {KEY_FILE} has no certificates" in capsys.readouterr().err
        assert asked == []
        assert main(["renew", "inference", "--url", url, "--cacert", str(issued.root)]) == 0
    assert asked == [("/token?type=inference", "Bearer a-key")]
    assert capsys.readouterr() == ("Authorization: Bearer newer\n", "")


def test_a_renewal_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    make_file(Path(KEY_FILE))
    body = json.dumps({"code": 400, "message": "Token Authentication failed.\x1b[2J"}, indent=2).encode()
    with management(400, body) as (url, _):
        assert main(["renew", "inference", "--url", url]) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"{url} refused, status 400" in err and "Token Authentication failed." in err
    assert "\x1b" not in err and "a-key" not in err


def test_a_server_that_renews_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    make_file(Path(KEY_FILE))
    with management(404) as (url, _):
        assert main(["renew", "inference", "--url", url]) == 1
    assert "renews no tokens" in capsys.readouterr().err


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    make_file(Path(KEY_FILE))
    assert main(["renew", "inference", "--url", "http://127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert "http://127.0.0.1:1 does not answer" in err and "--url names another place" in err


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "http://", "unix:/tmp/x", "http://x:port", "http://[x", "ftp://x"])
def test_an_address_that_is_none(capsys: pytest.CaptureFixture[str], url: str) -> None:
    make_file(Path(KEY_FILE))
    assert main(["renew", "inference", "--url", url]) == 1
    assert f"--url {url} is not of the form http://host:port" in capsys.readouterr().err


def test_the_api_key_goes_to_the_server_that_has_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Another program may have taken the port where one would look for the server."""
    (tmp_path / "there").mkdir()
    make_file(tmp_path / "there" / KEY_FILE)
    with server_process(tmp_path / "there"), management(200) as (url, asked):
        for words in (["renew", "inference", "--url", url], ["renew", "inference"]):
            assert main(words) == 1
            assert "The server does not listen at" in capsys.readouterr().err
    assert asked == []


def test_somebody_elses_pid_file_is_no_obstacle(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_file(Path(KEY_FILE))
    PidFile().path.write_text("1")
    monkeypatch.setattr(os, "geteuid", lambda: PidFile().path.stat().st_uid + 1)
    with pytest.raises(ConfigError):
        PidFile().running()
    with management(200) as (url, asked):
        assert main(["renew", "inference", "--url", url]) == 0
    assert len(asked) == 1


def test_a_renewal_that_changes_nothing_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    elsewhere = make_file(tmp_path / "elsewhere.json")
    with management(200) as (url, _):
        assert main(["renew", "inference", "--url", url, "--key-file", str(elsewhere)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{url} says that it has renewed the token, and {elsewhere} has the old one." in err


def test_keys_are_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "API", "--key-file", "a", "--pid-file", "b"]) == 2
    assert "name one of them" in capsys.readouterr().err


# --- the launcher ---


def test_the_banner_reads_keys_when_its_lines_are_run() -> None:
    listening = StatusEvent(
        event="listening", inference="http://127.0.0.1:1", management="http://127.0.0.1:2", key_file="/x/key_file.json"
    )
    lines = next_commands(listening, [StatusEvent(event="model", name="m", state="READY")])
    key = '-H "$(modelserver token show inference)"'
    assert lines[1] == f"  curl http://127.0.0.1:1/predictions/m {key} -T FILE"
    assert lines[2:5] == [
        "  curl http://127.0.0.1:1/ping",
        '  curl http://127.0.0.1:2/models -H "$(modelserver token show management)"',
        "The tokens are in /x/key_file.json",
    ]


def test_the_banner_of_a_server_with_a_pid_file_and_tls() -> None:
    listening = StatusEvent(
        event="listening", inference="https://h:1", management="https://h:2", key_file="/x/key_file.json"
    )
    lines = next_commands(listening, [], " --pid-file my.pid")
    key = '"$(modelserver token show management --pid-file my.pid)"'
    assert lines[1:3] == ["  curl -k https://h:1/ping", f"  curl -k https://h:2/models -H {key}"]
    assert lines[-1] == "  modelserver --stop --pid-file my.pid"


def test_stopping_takes_the_key_file_of_this_folder_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    with server_process(tmp_path / "there"):
        make_file(Path(KEY_FILE))
        make_file(tmp_path / "there" / KEY_FILE)
        assert stop_server(PidFile(), wait=True) == 0
    assert not Path(KEY_FILE).exists()
    assert (tmp_path / "there" / KEY_FILE).exists()
    assert capsys.readouterr().out == "TorchServe has stopped.\n"


def test_stopping_leaves_other_files_alone(tmp_path: Path) -> None:
    Path(KEY_FILE).write_text('{"type": "service_account"}')
    (tmp_path / "there").mkdir()
    with server_process(tmp_path / "there"):
        assert stop_server(PidFile(), wait=True) == 0
    assert Path(KEY_FILE).read_text() == '{"type": "service_account"}'


def test_without_a_server_nothing_is_taken_away() -> None:
    make_file(Path(KEY_FILE))
    assert stop_server(PidFile(), wait=True) == 0
    assert Path(KEY_FILE).exists()
