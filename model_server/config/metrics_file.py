"""Which metrics there are, with their units and dimensions (metrics.yaml), and where they go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from archiver.config_file import parse_config
from archiver.errors import InvalidConfig
from model_server.config.addresses import Address
from model_server.config.errors import ConfigError

MetricType = Literal["counter", "gauge", "histogram"]
MetricsMode = Literal["log", "prometheus", "legacy"]

# Every metric of a model says on which host it was measured, last of all.
HOST_DIMENSION = "Hostname"


@dataclass(frozen=True, slots=True)
class DeclaredMetric:
    """`dimensions` in the order in which labels are written."""

    name: str
    type: MetricType
    unit: str
    dimensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeclaredMetrics:
    """Attributes: server: measured here; model: recorded by handlers."""

    server: tuple[DeclaredMetric, ...] = ()
    model: tuple[DeclaredMetric, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Attributes: address: of `/metrics`; None: it is not served. interval_s: None: the machine is not measured."""

    address: Address | None = None
    mode: MetricsMode = "log"
    auto_detect: bool = False
    interval_s: int | None = None
    declared: DeclaredMetrics = field(default_factory=DeclaredMetrics)


def read_metrics_file(path: Path) -> DeclaredMetrics:
    """Raises `ConfigError` naming the file and what is wrong with it."""
    try:
        document = parse_config(path.read_bytes(), path.name)
        server = tuple(_section(document, "ts_metrics"))
        model = tuple(_section(document, "model_metrics", (HOST_DIMENSION,)))
    except OSError as error:
        raise ConfigError(f"metrics_config={path} cannot be read: {error.strerror}.") from error
    except (InvalidConfig, ValueError) as error:
        raise ConfigError(f"metrics_config={path}: {error}") from error
    return DeclaredMetrics(server, model)


def _section(document: dict[str, Any], section: str, added: tuple[str, ...] = ()) -> Iterator[DeclaredMetric]:
    types = document.get(section) or {}
    if not isinstance(types, dict):
        raise ValueError(f"{section} must hold counter, gauge and histogram, it holds {types!r:.60}")
    for type_, entries in types.items():
        if type_ not in get_args(MetricType):
            raise ValueError(f"{section}: {type_!r:.60} is none of {', '.join(get_args(MetricType))}")
        if not isinstance(entries, list):
            raise ValueError(f"{section}: {type_} must be a list, it is {entries!r:.60}")
        for entry in entries:
            yield _metric(entry, type_, f"{section}: {type_}", added)


def _metric(entry: Any, type_: MetricType, where: str, added: tuple[str, ...]) -> DeclaredMetric:
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: {entry!r:.60} must have a name, a unit and dimensions")
    for key in ("name", "unit"):
        if not isinstance(entry.get(key), str) or not entry[key]:
            raise ValueError(f"{where}: {entry!r:.100} has no {key}")
    dimensions = entry.get("dimensions") or []
    if not isinstance(dimensions, list) or not all(isinstance(name, str) for name in dimensions):
        raise ValueError(f"{where}: dimensions of {entry['name']} must be a list of names, not {dimensions!r:.60}")
    return DeclaredMetric(entry["name"], type_, entry["unit"], (*dimensions, *added))
