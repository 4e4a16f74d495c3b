"""The syntax of `--models` and `load_models`: `all`, or `[name=]url` items separated by commas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from model_server.config.server import ConfigWarning, StartupModel

_AROUND_EQUALS = re.compile(r"\s*=\s*")


def join_words(words: Sequence[str]) -> str:
    """Words of the command line as one comma-separated text; `NAME= FILE` and `NAME = FILE` are one item."""
    # Newlines keep the words apart from commas a word may itself hold.
    return _AROUND_EQUALS.sub("=", "\n".join(words)).replace("\n", ",")


def parse_startup_models(text: str) -> tuple[tuple[StartupModel, ...] | Literal["all"], list[ConfigWarning]]:
    """What to load at start. Items without an archive are skipped, with a warning where a name was given."""
    if text.strip().lower() == "all":
        return "all", []
    items = [_parse_item(item.strip()) for item in text.split(",")]
    nameless = [item.name for item in items if item.name and not item.url]
    warnings = [ConfigWarning(f"load_models: {name}= names no archive, skipped") for name in nameless]
    return tuple(item for item in items if item.url), warnings


def _parse_item(item: str) -> StartupModel:
    name, equals, url = item.partition("=")
    if not equals or "/" in name:  # a name has no slash, so this "=" belongs to the URL
        return StartupModel(None, item)
    return StartupModel(name.strip() or None, url.strip())
