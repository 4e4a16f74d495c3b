"""Typed values of settings: what cannot be read becomes a warning and the default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

from model_server.config.addresses import Address, DefaultPorts, parse_address
from model_server.config.keys import CATALOGUE
from model_server.config.server import ConfigWarning, Setting

_T = TypeVar("_T")

LARGEST_INTEGER = 2**31 - 1  # Java's int, which is what TorchServe reads
DEFAULT = "default"


def is_true(text: str) -> bool:
    """Java's Boolean.parseBoolean: everything but `true` is false."""
    return text.strip().lower() == "true"


class Values:
    """Reads one set of settings. The state here is `warnings` and `effective`, which a bad value sets back."""

    def __init__(self, settings: Mapping[str, Setting]) -> None:
        self.warnings: list[ConfigWarning] = []
        # An empty value means unset, as placeholders of container images leave it.
        given = {key: setting for key, setting in settings.items() if setting.text}
        self.effective: dict[str, Setting] = {key: given.get(key) or _default(key) for key in CATALOGUE}

    def text(self, key: str) -> str | None:
        """The value as text; None when unset."""
        return self.effective[key].text or None

    def address(self, key: str, default_ports: DefaultPorts) -> Address:
        """Raises InvalidConfiguration: there is no safe address to fall back to."""
        return parse_address(self.effective[key].text, default_ports)

    def boolean(self, key: str) -> bool:
        text = self.effective[key].text
        if text.lower() not in ("true", "false"):
            self._warn(key, "is neither true nor false, read as false")
        return is_true(text)

    def integer(self, key: str, at_least: int) -> int:
        """A number; for keys that have a default."""
        value = self.optional_integer(key, at_least)
        assert value is not None, f"{key} has no default"
        return value

    def optional_integer(self, key: str, at_least: int) -> int | None:
        text = self.text(key)
        if text is None:
            return None
        value = _integer(text)
        if value is None or not at_least <= value <= LARGEST_INTEGER:
            return self._fall_back(key, f"is not a whole number of {at_least} or more")
        return value

    def number(self, key: str, above: float, at_most: float) -> float:
        """A number, fractions allowed; for keys that have a default."""
        value = _number(self.effective[key].text)
        if not above < value <= at_most:
            self._fall_back(key, f"is not a number above {above:g} and up to {at_most:g}")
            value = _number(self.effective[key].text)
        return value

    def parsed(self, key: str, parse: Callable[[str], _T]) -> _T:
        """What `parse` makes of the text; it raises ValueError with what is wrong. For keys that have a default."""
        try:
            return parse(self.effective[key].text)
        except ValueError as error:
            default = _default(key)
            self._warn(key, f"{error}, using {default.text}")
            self.effective[key] = default
            return parse(default.text)

    def _fall_back(self, key: str, problem: str) -> int | None:
        default = _default(key)
        self._warn(key, f"{problem}, using {default.text or 'none'}")
        self.effective[key] = default
        return int(default.text) if default.text else None

    def _warn(self, key: str, problem: str) -> None:
        setting = self.effective[key]
        self.warnings.append(ConfigWarning(f"{setting.origin}: {key}={setting.text} {problem}"))


def _default(key: str) -> Setting:
    return Setting(CATALOGUE[key].default or "", DEFAULT)


def _number(text: str) -> float:
    """NaN for what is no number; it is in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
