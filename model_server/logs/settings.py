"""What the operator decides about logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

FormName = Literal["text", "json"]


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the operator decides about logs.

    Attributes:
        levels: lowest level that is logged, by logger; "" is all others.
        document: handlers in the form of `logging.config.dictConfig`, in place of the console and the five files.
    """

    folder: Path = Path("logs")
    metrics_folder: Path = Path("logs")
    form: FormName = "text"
    levels: Mapping[str, int] = field(default_factory=dict)
    document: Mapping[str, Any] | None = None
