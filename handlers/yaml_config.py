"""Reading YAML configuration inside a handler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def get_yaml_config(path: str | Path) -> Any:
    """What a YAML file holds, plain data only; None when it is empty.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError: it is not YAML, or asks for an object to be made.
    """
    return yaml.safe_load(Path(path).read_bytes())
