"""model-archiver as a command: flags, messages, exit statuses (the contract of TorchServe's archiver)."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from archiver import cli
from archiver.cli import main

REQUIRED = ["--model-name", "bert", "--version", "1.0", "--handler", "my_handler.py"]
NAME_MESSAGE = (
    "Model name contains special characters.\n"
    r"The allowed regular expression filter for model name is: ^[A-Za-z0-9][A-Za-z0-9_\-.]*$"
)


def packed_manifest(path: str = "bert.mar") -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("MAR-INF/MANIFEST.json"))


def test_the_command_form_of_torchserve_works_and_names_its_result(inputs, capsys):
    status = main(
        ["--model-name", "bert", "--version", "1.0", "--serialized-file", "model.safetensors"]
        + ["--handler", "./my_handler.py", "--config-file", "model-config.yaml"]
        + ["--extra-files", "extras/index_to_name.json,./net.py"]
    )
    assert status == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert "bert.mar" in out and "kB" in out
    assert err == ""
    with zipfile.ZipFile("bert.mar") as archive:
        assert set(archive.namelist()) == {
            *("model.safetensors", "my_handler.py", "model-config.yaml", "index_to_name.json", "net.py"),
            "MAR-INF/MANIFEST.json",
        }


def test_the_installed_command_takes_its_arguments_from_the_command_line(inputs):
    program = Path(sys.executable).with_name("model-archiver")
    ran = subprocess.run([program, *REQUIRED], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    failed = subprocess.run([program, *REQUIRED], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--model-name", "bert", "--handler", "my_handler.py"],
        ["--version", "1.0", "--handler", "my_handler.py"],
        ["--model-name", "bert", "--version", "1.0"],
        [*REQUIRED, "--runtime", "java"],
        [*REQUIRED, "--archive-format", "rar"],
        [*REQUIRED, "--no-such-flag"],
        [*REQUIRED, "--model", "x"],
        ["pack", *REQUIRED],
        ["inspect"],
    ],
)
def test_wrong_usage_exits_with_2_and_writes_nothing(inputs, arguments, capsys):
    before = sorted(os.listdir())
    assert main(arguments) == 2
    assert capsys.readouterr().err
    assert sorted(os.listdir()) == before


def test_an_ambiguous_abbreviation_names_its_candidates(inputs, capsys):
    main([*REQUIRED, "--e", "x"])
    assert "ambiguous option: --e could match --extra-files, --export-path" in capsys.readouterr().err


def test_unambiguous_abbreviations_are_options(inputs):
    Path("out").mkdir()
    Path("out/bert.mar").touch()
    status = main(
        ["--model-n", "bert", "--vers", "2", "--hand", "my_handler.py", "--ser=model.safetensors", "--f"]
        + ["--exp", "out", "--archive", "zip-store", "--req", "requirements.txt", "--conf=model-config.yaml"]
    )
    assert status == 0
    model = packed_manifest("out/bert.mar")["model"]
    assert (model["modelVersion"], model["serializedFile"]) == ("2", "model.safetensors")


def test_short_options(inputs):
    arguments = ["--model-name", "bert", "--handler", "base_handler"]
    assert main([*arguments, "-v", "3", "-r", "requirements.txt", "-c", "model-config.yaml", "-f"]) == 0
    model = packed_manifest()["model"]
    assert model["modelVersion"] == "3"
    assert (model["requirementsFile"], model["configFile"]) == ("requirements.txt", "model-config.yaml")


def test_an_empty_version_is_left_out_of_the_manifest(inputs):
    assert main([*REQUIRED, "--version", ""]) == 0
    assert "modelVersion" not in packed_manifest()["model"]


@pytest.mark.parametrize("help_flag", ["-h", "--help"])
def test_help(help_flag, capsys):
    assert main([help_flag]) == 0
    assert "--serialized-file" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["_bert", "a b", "a/b", "../a", "a\nb", "bert\n", "", "ü", "a;b"])
def test_model_name_with_special_characters(inputs, name, capsys):
    assert main([*REQUIRED, "--model-name", name]) == 1
    assert capsys.readouterr().err.startswith(NAME_MESSAGE)


@pytest.mark.parametrize("name", ["bert", "0bert", "B-e_r.t", "9"])
def test_model_name_that_is_allowed(inputs, name):
    assert main([*REQUIRED, "--model-name", name]) == 0
    assert Path(f"{name}.mar").is_file()


def test_a_missing_export_path_is_created_with_a_warning(inputs, capsys):
    assert main([*REQUIRED, "--export-path", "a/b"]) == 0
    assert capsys.readouterr().err == "WARNING - Export directory (a/b) does not exist. Creating...\n"
    assert Path("a/b/bert.mar").is_file()


def test_an_export_path_that_is_a_file(inputs, capsys):
    assert main([*REQUIRED, "--export-path", "net.py"]) == 1
    message = "Given export-path net.py is not a directory. Point to a valid export-path directory.\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("archive_format", "output"), [("default", "bert.mar"), ("tgz", "bert.tar.gz"), ("no-archive", "bert")]
)
def test_existing_output_needs_force(inputs, archive_format, output, capsys):
    arguments = [*REQUIRED, "--archive-format", archive_format, "--export-path", "out"]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(arguments) == 1
    assert capsys.readouterr().err == (
        f"out/{output} already exists.\n"
        "Please specify --force/-f option to overwrite the model archive output file.\n"
        "See -h/--help for more details.\n"
    )
    assert main([*arguments, "--force"]) == 0
    assert capsys.readouterr().err == f"WARNING - Overwriting out/{output} ...\n"
    assert os.listdir("out") == [output]


def test_the_default_export_path_is_the_current_folder(inputs, capsys):
    main(REQUIRED)
    main(REQUIRED)
    assert capsys.readouterr().err.startswith(f"{inputs}/bert.mar already exists.")


@pytest.mark.parametrize(
    ("flag", "path"),
    [
        ("--serialized-file", "none.pt"),
        ("--model-file", "./none.py"),
        ("--requirements-file", "none.txt"),
        ("--config-file", "dir/none.yaml"),
    ],
)
def test_a_missing_file_is_named(inputs, flag, path, capsys):
    assert main([*REQUIRED, flag, path]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"[Errno 2] No such file or directory: '{path}'")
    assert flag in error and error.count("\n") == 1


def test_a_missing_handler_is_named_with_the_built_in_ones(inputs, capsys):
    assert main([*REQUIRED, "--handler", "no_such"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("[Errno 2] No such file or directory: 'no_such.py'")
    assert "transformer_handler" in error


def test_missing_extra_file_and_unmatched_wildcard(inputs, capsys):
    assert main([*REQUIRED, "--extra-files", "net.py,none.txt"]) == 1
    assert capsys.readouterr().err.startswith("File does not exist: none.txt")
    assert main([*REQUIRED, "--extra-files", "*.none"]) == 0
    assert capsys.readouterr().err == "WARNING - Given wildcard pattern did not match any file: *.none\n"


def test_an_extra_file_that_is_a_device(inputs, capsys):
    os.mkfifo("pipe")
    assert main([*REQUIRED, "--extra-files", "pipe"]) == 1
    assert capsys.readouterr().err.startswith("Invalid extra file given pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_export_path_without_write_permission(inputs, capsys):
    Path("locked").mkdir(mode=0o500)
    assert main([*REQUIRED, "--export-path", "locked"]) == 1
    assert capsys.readouterr().err.startswith('Failed to save the model-archive to model-path "locked". Check the file')


def test_an_error_while_writing_names_the_export_path_and_leaves_nothing(inputs, capsys, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("archiver.write._copy", full_disk)
    Path("out").mkdir()
    assert main([*REQUIRED, "--export-path", "out"]) == 1
    assert capsys.readouterr().err.startswith(
        'Failed to save the model-archive to model-path "out". Check the file permissions and retry.'
    )
    assert os.listdir("out") == []


def test_any_other_error_while_writing(inputs, capsys, monkeypatch):
    def defect(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("archiver.write._copy", defect)
    assert main(REQUIRED) == 1
    assert capsys.readouterr().err.startswith("Failed to convert bert to the model-archive.")
    assert not Path("bert.mar").exists()


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("my_handler.py", "def handle(:\n", "my_handler.py, line 1: "),
        ("my_handler.py", "x = 1\nreturn x\n", "my_handler.py, line 2: "),
        ("my_handler.py", "\0", "my_handler.py"),
        ("net.py", "class\n", "net.py, line 1: "),
        ("model-config.yaml", "- a\n- b\n", "model-config.yaml holds ['a', 'b']"),
        ("model-config.yaml", "a: [1\n", "model-config.yaml is not valid YAML: line 2"),
        ("model-config.yaml", "handler: my_handler.py\n", "model-config.yaml: handler is 'my_handler.py'"),
        (
            "model-config.yaml",
            "a: !!python/object/apply:os.system ['touch x']\n",
            "model-config.yaml is not valid YAML",
        ),
    ],
)
def test_mistakes_are_found_while_packing(inputs, force, file, content, message, capsys):
    Path(file).write_text(content)
    arguments = [*REQUIRED, "--config-file", "model-config.yaml", "--model-file", "net.py", *force]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith(message) and error.count("\n") == 1
    assert not Path("bert.mar").exists() and not Path("x").exists()


def test_progress_appears_on_a_terminal_for_large_inputs_only(inputs, monkeypatch, capsys):
    class Terminal:
        def __init__(self, stream):
            self._stream = stream

        def isatty(self):
            return True

        def __getattr__(self, name):
            return getattr(self._stream, name)

    monkeypatch.setattr(sys, "stderr", Terminal(sys.stderr))
    assert main(REQUIRED) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(cli, "_PROGRESS_FROM_BYTES", 1)
    assert main([*REQUIRED, "--serialized-file", "model.safetensors", "--force"]) == 0
    assert "100%" in capsys.readouterr().err


def test_importing_the_package_stays_light():
    program = "import sys, archiver.unpack, archiver.pack; print({'click', 'torch', 'aiohttp'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
