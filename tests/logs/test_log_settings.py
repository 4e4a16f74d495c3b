"""The operator's settings: environment, keys of config.properties, --log-config."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from handlers.compat import TORCHSERVE_VERSION
from model_server.config import startup_info as info
from model_server.config.load import load_config
from model_server.config.server import CommandLine, ConfigWarning, ServerConfig
from model_server.logs.settings import LogSettings


def load(
    folder: Path, text: str = "", environ: Mapping[str, str] | None = None, log_config: Path | None = None
) -> tuple[ServerConfig, list[ConfigWarning]]:
    file = folder / "my.properties"
    file.write_text(text)
    command_line = CommandLine(ts_config=file, model_store=folder, log_config=log_config)
    return load_config(command_line, environ or {}, folder)


def read(*arguments: object, **more: object) -> tuple[LogSettings, list[str]]:
    config, warnings = load(*arguments, **more)  # type: ignore[arg-type]
    return config.logs, [str(warning) for warning in warnings if "allowed_urls" not in str(warning)]


def test_what_holds_when_nothing_is_said(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    assert read(tmp_path) == (LogSettings(logs, logs, "text", {"": logging.INFO}), [])


def test_places(tmp_path: Path) -> None:
    settings, _ = read(tmp_path, environ={"LOG_LOCATION": "a", "METRICS_LOCATION": "/b"})
    assert (settings.folder, settings.metrics_folder) == (tmp_path / "a", Path("/b"))
    # One does not follow the other, and what is empty is unset.
    settings, _ = read(tmp_path, environ={"LOG_LOCATION": "a", "METRICS_LOCATION": ""})
    assert settings.metrics_folder == tmp_path / "logs"


def test_form_and_levels(tmp_path: Path) -> None:
    settings, warnings = read(tmp_path, "log_format=JSON\nlog_level=WARN,ACCESS_LOG=OFF\n")
    assert (settings.form, settings.levels) == ("json", {"": logging.WARNING, "ACCESS_LOG": logging.CRITICAL + 1})
    assert warnings == []


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("log_format=xml", "log_format=xml is neither text nor json, using text"),
        ("log_level=LOUD", "log_level=LOUD 'LOUD' is not a level: there are "),
    ],
)
def test_a_mistyped_value_is_a_warning_and_the_default_holds(tmp_path: Path, line: str, warning: str) -> None:
    settings, warnings = read(tmp_path, line)
    assert (settings.form, settings.levels) == ("text", {"": logging.INFO})
    assert len(warnings) == 1
    assert f"my.properties:1: {warning}" in warnings[0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log4j2.xml", '<?xml version="1.0"?>\n<Configuration/>'),
        ("log4j2.conf", "\n\ufeff <Configuration/>"),
        ("log4j2.properties", "rootLogger.level = info"),
    ],
)
def test_a_log4j2_file_is_accepted_and_said_not_to_be_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    config, warnings = load(tmp_path, log_config=Path(name))
    assert config.logs.document is None
    (warning,) = [warning for warning in warnings if "log4j2" in str(warning)]
    assert not warning.is_mistake
    assert "log4j2 files are not read" in str(warning)
    assert "\n" not in str(warning)


@pytest.mark.parametrize(("name", "dump"), [("l.json", json.dumps), ("l.yaml", lambda value: "root:\n  level: INFO")])
def test_a_python_configuration_is_read(tmp_path: Path, name: str, dump: object) -> None:
    (tmp_path / name).write_text(dump({"root": {"level": "INFO"}}))  # type: ignore[operator]
    settings, warnings = read(tmp_path, log_config=Path(name))
    assert settings.document == {"root": {"level": "INFO"}}
    assert warnings == []


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just text", "", "\x00", "!!python/object/apply:os.getcwd []"])
def test_what_cannot_be_read_is_one_warning(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.yaml").write_text(text)
    config, warnings = load(tmp_path, log_config=Path("l.yaml"))
    assert config.logs.document is None
    (warning,) = [warning for warning in warnings if "--log-config" in str(warning)]
    assert warning.is_mistake
    assert "\n" not in str(warning)


# TorchServe's labels, but for those of its JVM and of C++ workers.
LABELS = """Torchserve version, TS Home, Current directory, Temp directory, Metrics config path, Number of GPUs,
Number of CPUs, Python executable, Config file, Inference address, Management address, Metrics address, Model Store,
Initial Models, Log dir, Metrics dir, Default workers per model, Blacklist Regex, Maximum Response Size,
Maximum Request Size, Limit Maximum Image Pixels, Allowed Urls, Custom python dependency for model allowed,
Enable metrics API, Metrics mode, Disable system metrics, Workflow Store, Model config, System metrics command,
Model API enabled"""


def test_the_server_describes_itself_under_torchserves_labels(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "load_models=a.mar\nblacklist_env_vars=.*KEY.*\n")
    text = info.startup_info(config, cpu_count=8, gpu_count=2)
    rows = dict(line.split(": ", 1) for line in text.splitlines())
    assert list(rows) == [label.strip() for label in LABELS.replace("\n", " ").split(",")]
    expected = {
        "Number of GPUs": "2",
        "Number of CPUs": "8",
        "Config file": str(tmp_path / "my.properties"),
        "Inference address": "http://127.0.0.1:8080",
        "Initial Models": "a.mar",
        "Log dir": str(tmp_path / "logs"),
        "Default workers per model": "2",
        "Blacklist Regex": ".*KEY.*",
        "Maximum Request Size": "6553500",
        "Limit Maximum Image Pixels": "true",
        "Metrics mode": "LOG",
        "Model config": "N/A",
        "Model API enabled": "false",
    }
    assert {label: rows[label] for label in expected} == expected
    assert rows["Torchserve version"].startswith(TORCHSERVE_VERSION)


def test_no_value_breaks_out_of_its_line(tmp_path: Path) -> None:
    config, _ = load(tmp_path, "service_envelope=json\nload_models=a.mar,\\u000aforged: 1\n")
    assert "\nforged" not in info.startup_info(config, 1, 0)
