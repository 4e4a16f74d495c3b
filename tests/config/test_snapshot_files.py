"""Which snapshot the server starts from when it is told nothing, and what of a snapshot counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_server.config.load import load_config
from model_server.config.server import CommandLine, ConfigWarning, ServerConfig, StartupModel
from model_server.config.snapshot_files import newest_snapshot

MODELS = (
    'model_snapshot={"modelCount"\\: 1, "models"\\: {"m"\\: {"1.0"\\: {"defaultVersion"\\: true, "marName"\\: "m.mar", '
    '"minWorkers"\\: 1, "maxWorkers"\\: 1, "batchSize"\\: 1, "maxBatchDelay"\\: 100}}}}\n'
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of snapshots of a server that runs in `tmp_path` with the model store `tmp_path/store`."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "m.mar").touch()
    (tmp_path / "logs" / "config").mkdir(parents=True)
    return tmp_path / "logs" / "config"


def load(cwd: Path, **flags: object) -> tuple[ServerConfig, list[ConfigWarning]]:
    flags.setdefault("model_store", cwd / "store")
    return load_config(CommandLine(**flags), {}, cwd)  # type: ignore[arg-type]


def test_the_newest_by_its_name(folder: Path, tmp_path: Path) -> None:
    for name in ("20250101000000000-shutdown", "20260101000000001-snapshot", "20260101000000000-startup"):
        (folder / f"{name}.cfg").write_text(MODELS + f"unknown={name}\n")
    (folder / ".20270101000000000-draft.cfg").write_text(MODELS)
    (folder / "notes.txt").write_text("x")
    config, _ = load(tmp_path)
    assert config.config_file == folder / "20260101000000001-snapshot.cfg"
    assert config.model_snapshot is not None and config.model_snapshot[0].name == "m"


def test_it_comes_before_the_file_of_the_folder_and_after_those_that_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "20250101000000000-shutdown.cfg").write_text(MODELS + "job_queue_size=1\n")
    (tmp_path / "config.properties").write_text("job_queue_size=2\n")
    (tmp_path / "named.properties").write_text("job_queue_size=3\n")
    assert load(tmp_path)[0].job_queue_size == 1
    assert load(tmp_path, ts_config=Path("named.properties"))[0].job_queue_size == 3
    config, _ = load(tmp_path, no_config_snapshots=True)
    assert (config.job_queue_size, config.model_snapshot, config.writes_snapshots) == (2, None, False)


def test_a_place_of_its_own(folder: Path, tmp_path: Path) -> None:
    (folder / "20250101000000000-shutdown.cfg").write_text(MODELS)
    environ = {"LOG_LOCATION": str(tmp_path / "elsewhere")}
    command_line = CommandLine(model_store=tmp_path / "store")
    assert load_config(command_line, environ, tmp_path)[0].config_file is None
    folder.parent.rename(tmp_path / "elsewhere")
    assert load_config(command_line, environ, tmp_path)[0].config_file is not None


@pytest.mark.parametrize("damage", ["", "job_queue_size=1\n", "model_snapshot={\n", "a=\\u1\n" + MODELS])
def test_a_damaged_one_is_passed_over_loudly(folder: Path, tmp_path: Path, damage: str) -> None:
    (folder / "20250101000000000-shutdown.cfg").write_text(MODELS)
    broken = folder / "20260101000000000-shutdown.cfg"
    broken.write_text(damage)
    config, warnings = load(tmp_path)
    assert config.config_file == folder / "20250101000000000-shutdown.cfg"
    (warning,) = warnings
    assert str(warning).startswith(f"{broken} is passed over, an older snapshot is looked for: Invalid configuration: ")


def test_one_that_cannot_be_read_is_passed_over(folder: Path) -> None:
    (folder / "20260101000000000-shutdown.cfg").symlink_to("gone")
    found, warnings = newest_snapshot(folder)
    assert (found, len(warnings)) == (None, 1)


def test_no_folder_no_snapshot(tmp_path: Path) -> None:
    assert newest_snapshot(tmp_path / "gone") == (None, [])


# --- what of it counts ---


def test_the_command_line_may_move_the_store_but_not_choose_the_models(folder: Path, tmp_path: Path) -> None:
    file = folder / "20250101000000000-shutdown.cfg"
    file.write_text(f"model_store=/gone\nload_models=m.mar\n{MODELS}")
    config, warnings = load(tmp_path, models=("other.mar",))
    assert config.model_stores == (tmp_path / "store",)
    assert config.model_snapshot is not None
    assert [str(warning) for warning in warnings] == [
        f"load_models (command line) is ignored: the models of {file}:3 are served; "
        "--no-config-snapshots leaves snapshots alone"
    ]
    assert not warnings[0].is_mistake


def test_models_and_load_models_of_one_file_are_no_surprise(folder: Path, tmp_path: Path) -> None:
    """KServe's container has both."""
    (folder / "20250101000000000-shutdown.cfg").write_text(f"load_models=all\n{MODELS}")
    config, warnings = load(tmp_path)
    assert (config.load_models, warnings) == ("all", [])
    (folder / "20250101000000000-shutdown.cfg").write_text(f"load_models=m.mar\n{MODELS}")
    assert load(tmp_path)[0].load_models == (StartupModel(None, "m.mar"),)


def test_notes_of_torchserve_are_no_keys_and_its_interpreter_is_not_ours(folder: Path, tmp_path: Path) -> None:
    file = folder / "20250101000000000-shutdown.cfg"
    file.write_text(f"version=0.12.0\ntsConfigFile=/x\npython=/torchserve/bin/python\n{MODELS}")
    config, warnings = load(tmp_path)
    assert (config.origins["python"], warnings, config.unknown_keys) == ("default", [], {})


def test_an_interpreter_that_was_set_lives_through_torchserve(folder: Path, tmp_path: Path) -> None:
    """TorchServe keeps keys that it does not know, and writes its own interpreter beside them."""
    file = folder / "20250101000000000-shutdown.cfg"
    file.write_text(f"version=0.12.0\nmodelserver_python=/mine/python\npython=/torchserve/bin/python\n{MODELS}")
    assert load(tmp_path)[0].python == "/mine/python"
    (tmp_path / "my.properties").write_text("python=/set/python\n")
    assert load(tmp_path, ts_config=Path("my.properties"))[0].python == "/set/python"


def test_keys_that_nobody_knows_are_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "20250101000000000-shutdown.cfg").write_text(f"colour=r\\u00f6d\n{MODELS}")
    config, warnings = load(tmp_path)
    assert config.unknown_keys == {"colour": "röd"}
    assert "unknown key colour" in str(warnings[0])


def test_an_archive_that_is_gone_stops_the_start(folder: Path, tmp_path: Path) -> None:
    (folder / "20250101000000000-shutdown.cfg").write_text(MODELS)
    (tmp_path / "store" / "m.mar").unlink()
    with pytest.raises(ValueError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(
        f"Model archive file for model :m, version :1.0 not found in model store ({tmp_path / 'store'})."
    )
