"""What the operator decides about metrics: the keys of config.properties that have to do with them."""

from __future__ import annotations

from pathlib import Path

from model_server.config.addresses import DefaultPorts
from model_server.config.errors import ConfigError
from model_server.config.metrics_file import DeclaredMetrics, MetricsConfig, MetricsMode, read_metrics_file
from model_server.config.server import ConfigWarning
from model_server.config.values import Values

_PORTS = DefaultPorts(http=8082, https=8445)
BUILT_IN_FILE = Path(__file__).parent.parent / "metrics" / "metrics.yaml"
_MODES: dict[str, MetricsMode] = {"log": "log", "prometheus": "prometheus", "legacy": "legacy"}


def read_metrics_config(values: Values, cwd: Path) -> tuple[MetricsConfig, list[ConfigWarning]]:
    """A metrics.yaml that cannot be used is a warning, and the built-in one takes its place."""
    declared, warnings = _declared(values.text("metrics_config"), cwd)
    is_measured = not values.boolean("disable_system_metrics")
    config = MetricsConfig(
        address=values.address("metrics_address", _PORTS) if values.boolean("enable_metrics_api") else None,
        mode=values.parsed("metrics_mode", _mode),
        auto_detect=values.boolean("model_metrics_auto_detect"),
        interval_s=values.integer("metric_time_interval", at_least=1) if is_measured else None,
        declared=declared,
    )
    return config, warnings


def _declared(file: str | None, cwd: Path) -> tuple[DeclaredMetrics, list[ConfigWarning]]:
    warnings = []
    if file is not None:
        try:
            return read_metrics_file(cwd / file), []
        except ConfigError as error:
            warnings = [ConfigWarning(f"Failed to load metrics configuration. {error} The built-in one is used.")]
    return read_metrics_file(BUILT_IN_FILE), warnings


def _mode(text: str) -> MetricsMode:
    mode = _MODES.get("".join(text.split()).lower())
    if mode is None:
        raise ValueError(f"is none of {', '.join(_MODES)}")
    return mode
