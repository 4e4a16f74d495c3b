"""JSON objects as TorchServe's lenient parser reads them: single quotes are fine, and so are bare words."""

from __future__ import annotations

from typing import Any

from archiver.config_file import parse_config
from archiver.errors import InvalidConfig


def parse_object(content: bytes) -> dict[str, Any]:
    """The object in a request's body. YAML is JSON with more freedom, and our reader of it is bounded.

    Raises:
        ValueError: it is no object, or larger than a configuration may be.
    """
    try:
        return parse_config(content, "The body")
    except InvalidConfig as error:
        raise ValueError(str(error).replace("is not valid YAML", "is not valid JSON")) from error
