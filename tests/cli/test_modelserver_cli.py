"""The modelserver command: flags, shortened flags, several words after --models, --check-config."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from model_server import __version__, cli
from model_server.cli import command_line_words, expand_words, modelserver
from model_server.config.server import CommandLine

FLAGS = [
    "--start",
    "--stop",
    "--models",
    "--model-store",
    "--no-config-snapshots",
    "--ncs",
    "--disable-token-auth",
    "--dt",
    "--ts-config",
]


@pytest.fixture(autouse=True)
def _clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, configuration or environment of the developer's gets into a test."""
    for name in ("TS_CONFIG_FILE", "TEMP", "LOG_LOCATION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def invoke(*words: str) -> Result:
    return CliRunner().invoke(modelserver, list(words))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--disable-token", "--disable-token-auth"),
        ("--disable-token-auth", "--disable-token-auth"),
        ("--no-config --sta", "--no-config-snapshots --start"),
        ("--ncs --dt", "--ncs --dt"),
        ("--model-s=x", "--model-store=x"),
        ("--models A B=C D --start", "--models A --models B=C --models D --start"),
        ("--models=A B", "--models=A --models B"),
        ("--models A --model-store S --models B", "--models A --model-store S --models B"),
        ("--ts-config F --models A=", "--ts-config F --models A="),
        ("--unknown x", "--unknown x"),
        ("-v -h", "-v -h"),
    ],
)
def test_words_become_what_click_understands(words: str, expected: str) -> None:
    assert expand_words(words.split(), FLAGS) == expected.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model X", "--model could be --models or --model-store: write more of it."),
        ("--st", "--st could be --start or --stop: write more of it."),
        ("--models", "--models needs at least one model."),
        ("--models --start", "--models needs at least one model."),
    ],
)
def test_words_that_are_refused(words: str, message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        expand_words(words.split(), FLAGS)
    assert caught.value.message == message


def test_every_flag_of_torchserve_is_accepted() -> None:
    result = invoke("--help")
    flags = """--help --version --start --stop --ts-config --model-store --workflow-store --models --log-config
        --cpp-log-config --foreground --no-config-snapshots --ncs --plugins-path --ppath --disable-token-auth --dt
        --enable-model-api --check-config"""
    assert all(flag in result.output for flag in flags.split())
    assert "--status-fd" not in result.output


@pytest.mark.parametrize("flag", ["--version", "-v", "--vers"])
def test_version(flag: str) -> None:
    result = invoke(flag)
    assert (result.exit_code, result.output) == (0, f"modelserver {__version__}\n")


@pytest.mark.parametrize("words", ["--start --stop", "--version --start", "--stop --check-config", "--bogus", "extra"])
def test_usage_errors(words: str) -> None:
    result = invoke(*words.split())
    assert result.exit_code == 2
    assert "Error:" in result.output


def test_unknown_command_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["modelserver", "frobnicate", "--start"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "unknown command frobnicate" in capsys.readouterr().err


def test_known_command_gets_the_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setitem(cli.COMMANDS, "count", lambda words: len(seen.append(list(words)) or words))
    monkeypatch.setattr(sys, "argv", ["modelserver", "count", "a", "--b"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert (caught.value.code, seen) == (2, [["a", "--b"]])


@pytest.mark.parametrize("flags", [(), ("--start",), ("--start", "--foreground"), ("--check-config",)])
def test_missing_model_store_stops_every_way_to_start(flags: tuple[str, ...]) -> None:
    result = invoke(*flags)
    assert (result.exit_code, result.output) == (1, "Missing mandatory parameter --model-store\n")


def test_stop_without_a_server() -> None:
    result = invoke("--stop")
    assert (result.exit_code, result.output) == (0, "TorchServe is not currently running.\n")


def test_command_line_survives_being_passed_to_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = CommandLine(
        ts_config=Path("c.properties"),
        model_store=Path("a store"),
        workflow_store=Path("w"),
        models=("A=", "B.mar", "C,D"),
        log_config=Path("l.xml"),
        cpp_log_config=Path("cl"),
        plugins_path="p",
        no_config_snapshots=True,
        disable_token_auth=True,
        enable_model_api=True,
    )
    seen: list[CommandLine] = []
    monkeypatch.setattr(cli, "_launch", lambda command_line: seen.append(command_line) or 0)
    assert invoke(*command_line_words(before)).exit_code == 0
    assert seen == [before]


def test_error_of_a_server_with_a_launcher_goes_to_the_launcher(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    try:
        result = invoke("--start", "--foreground", "--model-store", "gone", "--status-fd", str(write_fd))
    finally:
        os.close(write_fd)
    with os.fdopen(read_fd) as pipe:
        assert json.loads(pipe.read()) == {"event": "error", "message": "--model-store directory not found: gone"}
    assert (result.exit_code, result.output) == (1, "")


# --- --check-config ---


def check(*words: str) -> Result:
    Path("store").mkdir(exist_ok=True)
    return invoke("--check-config", "--model-store", "store", *words)


def rows(result: Result) -> dict[str, list[str]]:
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith("  ")]
    return {key: rest.rsplit("  ", 1) for key, rest in lines}


def write_archive(folder: Path, yaml: str) -> None:
    manifest = {
        "createdOn": "01/01/2026 00:00:00",
        "runtime": "python",
        "model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0", "configFile": "model-config.yaml"},
        "archiverVersion": "0.12.0",
    }
    (folder / "store").mkdir()
    with zipfile.ZipFile(folder / "store" / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("h.py", "def handle(data, context):\n    return data\n")
        archive.writestr("model-config.yaml", yaml)


def test_check_prints_values_with_their_origin(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("job_queue_size=7\nkeystore_pass=secret\n")
    result = check("--models", "all")
    table = rows(result)
    assert [part.strip() for part in table["job_queue_size"]] == ["7", f"{tmp_path / 'config.properties'}:1"]
    assert [part.strip() for part in table["load_models"]] == ["all", "command line"]
    assert [part.strip() for part in table["max_request_size"]] == ["6553500", "default"]
    assert "secret" not in result.output
    assert result.exit_code == 0


def test_check_fails_on_a_mistyped_key(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("job_que_size=7\n")
    result = check()
    assert result.exit_code == 1
    assert "mistake" in result.stderr and "did you mean job_queue_size?" in result.stderr


def test_check_passes_keys_that_have_no_effect_yet(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("workflow_store=flows\n")
    result = check()
    assert result.exit_code == 0
    assert "note: has no effect yet" in result.stderr


def test_check_reads_the_archives(tmp_path: Path) -> None:
    write_archive(tmp_path, "minWorkers: 2\nmaxWorkers: 2\nbatchSize: 4\n")
    (tmp_path / "config.properties").write_text('models={"m": {"1.0": {"maxBatchDelay": 30, "batchSize": 9}}}')
    result = check("--models", "m.mar")
    table = rows(result)
    assert [part.strip() for part in table["batch_size"]] == ["4", "model-config.yaml"]
    assert [part.strip() for part in table["max_batch_delay_ms"]] == ["30", "models="]
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("yaml", "complaint"),
    [("batchsize: 4", "did you mean batchSize?"), ("batchSize: '4'", "Invalid batchSize: '4', should be integer")],
)
def test_check_fails_on_a_mistake_in_an_archive(tmp_path: Path, yaml: str, complaint: str) -> None:
    write_archive(tmp_path, yaml)
    result = check("--models", "all")
    assert result.exit_code == 1
    assert complaint in result.stderr


def test_check_fails_on_an_archive_that_is_not_there() -> None:
    result = check("--models", "gone.mar")
    assert result.exit_code == 1
    assert "gone.mar" in result.stderr


def test_the_command_starts_quickly_without_the_servers_libraries() -> None:
    program = "import sys, model_server.cli; print(sorted({'torch', 'aiohttp', 'transformers'} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
