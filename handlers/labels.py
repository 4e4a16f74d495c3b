"""`index_to_name.json`: what the outputs of a model are called."""

from __future__ import annotations

import logging
from pathlib import Path

from handlers.documents import read_json
from handlers.errors import ModelLoadError

LABELS_FILE = "index_to_name.json"

log = logging.getLogger(__name__)


def load_label_mapping(path: str | Path) -> dict[str, str] | None:
    """Index (as text) to label; None, with a warning, when the file is not there.

    Shapes: `{"0": "label"}`, `{"0": ["id", "label"]}` (the last item counts), `{"object_type_names": ["a", "b"]}`.

    Raises:
        ModelLoadError: any other shape.
    """
    if not Path(path).is_file():
        log.warning("%s is missing: answers carry the indices of the classes", LABELS_FILE)
        return None
    document = read_json(Path(path))
    if not isinstance(document, dict):
        raise ModelLoadError('index->name JSON mapping should be in "class": "label" format.')
    names = document.get("object_type_names")
    if isinstance(names, list):
        document = dict(enumerate(names))
    return {str(index): _label(value) for index, value in document.items()}


def _label(value: object) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str):
        raise ModelLoadError(f"labels in index->name mapping must be either str or List[str]: found {value!r}")
    return value
