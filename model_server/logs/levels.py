"""The levels an operator sets: `INFO`, or `INFO, ACCESS_LOG=OFF, model_server.serving=DEBUG`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

# By the names of log4j2 and of Python.
_LEVELS = {
    "ALL": 1,
    "TRACE": 1,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "FATAL": logging.CRITICAL,
    "CRITICAL": logging.CRITICAL,
    "OFF": logging.CRITICAL + 1,
}
# The logger above all others.
ROOT = ""


def parse_levels(text: str) -> dict[str, int]:
    """Logger -> lowest level that is logged.

    Raises:
        ValueError: with what is wrong in it.
    """
    levels = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        logger, _, level = item.rpartition("=")
        if level.strip().upper() not in _LEVELS:
            raise ValueError(f"{level.strip()!r} is not a level: there are {', '.join(_LEVELS)}")
        levels[logger.strip()] = _LEVELS[level.strip().upper()]
    return levels


def set_levels(levels: Mapping[str, int]) -> None:
    """What is logged when `levels` says nothing: INFO and above."""
    logging.addLevelName(logging.WARNING, "WARN")
    logging.addLevelName(logging.CRITICAL, "FATAL")
    for logger, level in {ROOT: logging.INFO, **levels}.items():
        logging.getLogger(logger or None).setLevel(level)
