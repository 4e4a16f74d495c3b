"""modelserver install-aliases, in environments of its own; every alias is really run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

import pytest

from model_server import aliases, cli

COMMANDS = ["torch-model-archiver", "torchserve"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bin folder with `modelserver` in it, which is the one that runs."""
    made = tmp_path / "some where" / "bin"
    made.mkdir(parents=True)
    (made / "modelserver").write_text("")
    monkeypatch.setattr(sys, "argv", [str(made / "modelserver"), "install-aliases"])
    return made


def run(command: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs to the end of the command; a server that it leaves behind may go on writing to the files."""
    environment = {**os.environ, "TMPDIR": str(command.parent), "CUDA_VISIBLE_DEVICES": ""}
    paths = [command.parent.parent / uuid.uuid4().hex for _ in ("out", "err")]
    with paths[0].open("w") as out, paths[1].open("w") as err:
        done = subprocess.run(
            [command, *words], env=environment, cwd=command.parent, stdout=out, stderr=err, timeout=60
        )
    return subprocess.CompletedProcess(done.args, done.returncode, *(path.read_text() for path in paths))


def install(*words: str) -> int:
    return aliases.main(words)


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "modelserver")


def test_the_commands_lie_beside_ours(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install() == 0
    assert listed(folder) == COMMANDS
    assert capsys.readouterr().out.splitlines() == [f"{folder / command} is there." for command in reversed(COMMANDS)]


def test_torchserve_says_what_scripts_look_for(folder: Path) -> None:
    install()
    for flag in ("--version", "-v"):
        answer = run(folder / "torchserve", flag)
        assert (answer.returncode, answer.stdout) == (0, "TorchServe Version is 0.12.0\n")
    answer = run(folder / "torchserve", "--stop")
    assert (answer.returncode, answer.stdout) == (0, "TorchServe is not currently running.\n")
    answer = run(folder / "torchserve", "--start")
    assert answer.returncode == 1
    assert answer.stdout.startswith("Missing mandatory parameter --model-store")


def test_torchserve_starts_and_stops_a_server(folder: Path) -> None:
    install()
    (folder / "store").mkdir()
    addresses = [f"{name}_address=http://127.0.0.1:0\n" for name in ("inference", "management", "metrics")]
    addresses += ["grpc_inference_port=0\n", "grpc_management_port=0\n"]
    (folder / "config.properties").write_text("".join(addresses))
    flags = ["--ncs", "--model-store", "store", "--ts-config", "config.properties"]
    started = run(folder / "torchserve", "--start", *flags)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        assert "Model server started." in started.stdout
        assert run(folder / "torchserve", "--start", *flags).stdout == (
            "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n"
        )
    finally:
        stopped = run(folder / "torchserve", "--stop", "--foreground")
    assert (stopped.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")


def test_torchserve_has_flags_only(folder: Path) -> None:
    install()
    assert run(folder / "torchserve", "install-aliases").returncode == 2


def test_arguments_arrive_as_they_were_given(folder: Path) -> None:
    install()
    (folder / "my handler.py").write_text("def handle(data, context): pass\n")
    words = ["--model-name", "m", "--version", "1 *", "--handler", "my handler.py", "--export-path", "out $HOME"]
    answer = run(folder / "torch-model-archiver", *words)
    assert answer.returncode == 0, answer.stderr
    with zipfile.ZipFile(folder / "out $HOME" / "m.mar") as archive:
        assert json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"] == "1 *"
    assert run(folder / "torch-model-archiver", *words).returncode == 1


def test_a_second_run_changes_nothing(folder: Path) -> None:
    install()
    first = {name: (folder / name).read_bytes() for name in COMMANDS}
    assert install() == 0
    assert {name: (folder / name).read_bytes() for name in listed(folder)} == first


def test_remove(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install()
    assert install("--remove") == 0
    assert listed(folder) == []
    capsys.readouterr()
    assert install("--remove") == 0
    assert capsys.readouterr().out == f"There are no aliases in {folder}.\n"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("content", ["#!/usr/bin/python3\nfrom ts.model_server import start\n", "", b"\x7fELF\0\n"])
def test_a_command_of_others_stays(
    folder: Path, command: str, content: str | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = content.encode() if isinstance(content, str) else content
    (folder / command).write_bytes(raw)
    assert install() == 1
    assert f"{folder / command} is there already and was not written by modelserver" in capsys.readouterr().err
    assert listed(folder) == [command]
    assert install("--remove") == 0
    assert (folder / command).read_bytes() == raw


def test_a_dangling_link_is_a_command_of_others(folder: Path) -> None:
    (folder / "torchserve").symlink_to(folder / "gone")
    assert install() == 1
    assert (folder / "torchserve").is_symlink()


@pytest.mark.parametrize("name", ["torchserve", "torch-model-archiver", "torchserve-nightly"])
def test_an_installed_distribution_is_named(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its command may lie in another folder of the path."""
    info = tmp_path / "site" / f"{name.replace('-', '_')}-0.12.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.12.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert install() == 1
    error = capsys.readouterr().err
    assert f"{name} 0.12.0 is installed in this environment" in error
    assert len(error.splitlines()) == 1
    assert listed(folder) == []


def test_a_folder_that_cannot_be_written_to_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(folder / "gone" / "modelserver")])
    assert install() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(folder / "gone") in line


def test_wrong_usage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install("--bogus") == 2
    assert "--bogus" in capsys.readouterr().err
    assert listed(folder) == []


def test_it_is_a_command_of_modelserver(folder: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert listed(folder) == COMMANDS
    flags = {flag for parameter in cli.modelserver.params for flag in parameter.opts}
    assert {"--start", "--stop", "--version"} <= flags
