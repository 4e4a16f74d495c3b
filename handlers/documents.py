"""JSON files out of an archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from handlers.errors import ModelLoadError


def read_json(path: Path) -> Any:
    """The parsed file.

    Raises:
        ModelLoadError: it is not valid JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadError(f"{path.name} is not valid JSON: {error}") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The parsed file, which must hold an object.

    Raises:
        ModelLoadError: it does not.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise ModelLoadError(f"{path.name} must hold a JSON object: found {type(document).__name__}")
    return document
