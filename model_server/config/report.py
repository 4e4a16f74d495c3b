"""What `--check-config` prints: every effective value and where it came from."""

from __future__ import annotations

from collections.abc import Iterable

from model_server.config.resolve import ModelSettings
from model_server.config.server import ServerConfig

_SECRETS = ("keystore_pass",)


def server_table(config: ServerConfig) -> str:
    """One line per key of config.properties: key, value, origin."""
    return _table((key, _shown(key, setting.text), setting.origin) for key, setting in config.settings.items())


def model_table(settings: ModelSettings) -> str:
    """One line per setting of one model version: setting, value, origin."""
    return _table((name, str(getattr(settings, name)), origin) for name, origin in settings.origins.items())


def _shown(key: str, text: str) -> str:
    if key in _SECRETS:
        return "(hidden)"
    return text or "(unset)"


def _table(rows: Iterable[tuple[str, str, str]]) -> str:
    lines = list(rows)
    widths = [max(len(row[column]) for row in lines) for column in (0, 1)]
    return "\n".join(f"  {name:<{widths[0]}}  {value:<{min(widths[1], 40)}}  {origin}" for name, value, origin in lines)
