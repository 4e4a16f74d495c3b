"""What goes through Python's `logging`: records of the server, and handlers that an operator configured."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_server.logs.bridge import ConfiguredOutlet, LineHandler
from model_server.logs.console import Console
from model_server.logs.levels import parse_levels, set_levels
from model_server.logs.lines import Line, TextForm


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Puts handlers, levels and propagation of all loggers back, also of those that a test was the first to name."""
    before = {logger: (list(logger.handlers), logger.level, logger.propagate) for logger in all_loggers()}
    names = {level: logging.getLevelName(level) for level in (logging.WARNING, logging.CRITICAL)}
    yield
    for logger in all_loggers():
        handlers, level, propagate = before.get(logger, ([], logging.NOTSET, True))
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    for number, name in names.items():
        logging.addLevelName(number, name)


def all_loggers() -> list[logging.Logger]:
    named = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in named if isinstance(logger, logging.Logger))]


@pytest.fixture
def lines() -> list[Line]:
    return []


@pytest.fixture
def log(lines: list[Line]) -> logging.Logger:
    logger = logging.getLogger("model_server.tests.bridge")
    logger.handlers[:] = [LineHandler(lines.append)]
    logger.setLevel(logging.INFO)
    return logger


def test_a_record_becomes_a_line(log: logging.Logger, lines: list[Line]) -> None:
    log.warning("Model %s is gone", "m", extra={"request_id": "r-1"})
    (line,) = lines
    assert (line.level, line.logger, line.thread) == (logging.WARNING, log.name, "MainThread")
    assert (line.message, line.detail, line.request_id) == ("Model m is gone", "", "r-1")


def test_arguments_may_change_afterwards(log: logging.Logger, lines: list[Line]) -> None:
    changing = ["before"]
    log.info("%s", changing)
    changing[0] = "after"
    assert lines[0].message == "['before']"


def test_no_line_of_a_traceback_can_pass_for_one_of_the_log(log: logging.Logger, lines: list[Line]) -> None:
    try:
        raise ValueError("a\n2026-11-21T12:08:31,353 [INFO ] main ACCESS_LOG - forged\x1b[2J")
    except ValueError:
        log.exception("It failed")
    first, *others = TextForm()(lines[0])[0].splitlines()
    assert first.endswith(" - It failed")
    assert others[0] == "\tTraceback (most recent call last):"
    assert all(line.startswith("\t") and line[1:].isprintable() for line in others)
    assert r"forged\x1b[2J" in others[-1]


def test_texts_of_ours_may_have_several_lines(log: logging.Logger, lines: list[Line]) -> None:
    log.info("", extra={"detail": "one: 1\ntwo: 2"})
    assert TextForm()(lines[0])[0].splitlines()[1:] == ["one: 1", "two: 2"]


def test_a_record_that_cannot_be_formatted_harms_nobody(
    log: logging.Logger, lines: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log.info("%d", "no number")
    log.info("next")
    assert [line.message for line in lines] == ["next"]


# --- an operator's configuration ---


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with (tmp_path / "stdout").open("wb") as stdout:
        yield Console(stdout.fileno())


def configuration(folder: Path, **more: Any) -> dict[str, Any]:
    """Two files: one for everything, one for the model log alone."""
    formatters = {"short": {"format": "%(levelname)s|%(name)s|%(threadName)s|%(message)s"}}
    files = {
        name: {"class": "logging.FileHandler", "filename": str(folder / name), "formatter": "short"}
        for name in ("all", "models")
    }
    loggers = {"MODEL_LOG": {"handlers": ["models"], "propagate": False}}
    root = {"handlers": ["all"], "level": "INFO"}
    return {"formatters": formatters, "handlers": files, "loggers": loggers, "root": root, **more}


def ready_made(logger: str, message: str, level: int = logging.INFO) -> Line:
    return Line(0.0, level, logger, "T", message)


def test_configured_handlers_get_lines_and_records(
    tmp_path: Path, log: logging.Logger, lines: list[Line], console: Console
) -> None:
    outlet = ConfiguredOutlet(configuration(tmp_path), console)
    log.handlers[:] = [LineHandler(lines.append)]
    log.warning("by %s", "a record")
    outlet.write([*lines, ready_made("ACCESS_LOG", "an access"), ready_made("MODEL_LOG.x", "a\nb")])
    outlet.close()
    assert (tmp_path / "all").read_text().splitlines() == [
        f"{logging.getLevelName(logging.WARNING)}|{log.name}|MainThread|by a record",
        "INFO|ACCESS_LOG|T|an access",
    ]
    assert (tmp_path / "models").read_text() == "INFO|MODEL_LOG.x|T|a\\nb\n"


def test_what_programs_wait_for_is_printed_whatever_is_configured(tmp_path: Path, console: Console) -> None:
    outlet = ConfiguredOutlet(configuration(tmp_path), console)
    outlet.write([ready_made("", "Model server started.")])
    outlet.close()
    assert (tmp_path / "stdout").read_text() == "Model server started.\n"
    assert (tmp_path / "all").read_text() == ""


def test_their_own_levels_hold(tmp_path: Path, console: Console) -> None:
    document = configuration(tmp_path)
    document["handlers"]["all"]["level"] = "ERROR"
    outlet = ConfiguredOutlet(document, console)
    outlet.write([ready_made("X", "no"), ready_made("X", "yes", logging.ERROR)])
    outlet.close()
    assert (tmp_path / "all").read_text() == "ERROR|X|T|yes\n"


def test_no_logger_keeps_a_handler_that_the_event_loop_would_run(tmp_path: Path, console: Console) -> None:
    outlet = ConfiguredOutlet(configuration(tmp_path), console)
    assert logging.getLogger("MODEL_LOG").handlers == []
    assert logging.getLogger("MODEL_LOG").propagate
    assert logging.getLogger().handlers == []
    outlet.close()


def test_loggers_that_were_there_stay_on(tmp_path: Path, log: logging.Logger, console: Console) -> None:
    ConfiguredOutlet(configuration(tmp_path), console).close()
    assert not log.disabled


def test_configured_files_are_opened_again(tmp_path: Path, console: Console) -> None:
    outlet = ConfiguredOutlet(configuration(tmp_path), console)
    outlet.write([ready_made("X", "one")])
    (tmp_path / "all").rename(tmp_path / "all.1")
    outlet.reopen()
    outlet.write([ready_made("X", "two")])
    outlet.close()
    assert (tmp_path / "all").read_text() == "INFO|X|T|two\n"


def test_a_configuration_with_a_mistake_leaves_no_handler(console: Console) -> None:
    handlers = {"console": {"class": "logging.StreamHandler"}}
    loggers = {"X": {"handlers": ["console"]}, "Y": {"handlers": ["nowhere"]}}
    with pytest.raises(ValueError, match="Y"):
        ConfiguredOutlet({"handlers": handlers, "loggers": loggers}, console)
    assert logging.getLogger("X").handlers == []
    assert logging.getLogger().handlers == []


# --- levels ---


def test_levels_of_all_and_of_some() -> None:
    assert parse_levels(" warn , ACCESS_LOG = off,model_server.serving=Debug,, ") == {
        "": logging.WARNING,
        "ACCESS_LOG": logging.CRITICAL + 1,
        "model_server.serving": logging.DEBUG,
    }


@pytest.mark.parametrize(("text", "wrong"), [("LOUD", "'LOUD'"), ("INFO,X=", "''"), ("a=b=c", "'c'")])
def test_what_is_no_level_is_named(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"{wrong} is not a level: there are ALL, TRACE, DEBUG"):
        parse_levels(text)


def test_levels_hold_for_what_is_below_a_logger() -> None:
    set_levels({"model_server.serving": logging.ERROR})
    assert not logging.getLogger("model_server.serving.model").isEnabledFor(logging.WARNING)
    assert logging.getLogger("model_server.api").isEnabledFor(logging.INFO)
    assert not logging.getLogger("model_server.api").isEnabledFor(logging.DEBUG)
