"""Names of a classifier's outputs: index_to_name.json first, then config.json, then LABEL_i."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.documents import read_json
from handlers.errors import ModelLoadError
from handlers.labels import LABELS_FILE, load_label_mapping


def load_labels(model_dir: Path, id2label: Mapping[int, str] | None) -> dict[int, str]:
    """Index to label.

    Besides the shapes of `handlers.labels`, `{"label_list": [...]}` is read, as a list or as the text
    "[O, B-MISC, ...]" that the original's token classification example ships.

    Raises:
        ModelLoadError: the file has another shape.
    """
    labels = {int(index): str(label) for index, label in (id2label or {}).items()}
    path = model_dir / LABELS_FILE
    if not path.is_file():
        return labels
    document = read_json(path)
    if isinstance(document, dict) and "label_list" in document:
        return labels | dict(enumerate(_label_list(document["label_list"])))
    mapping = load_label_mapping(path) or {}
    return labels | {_index(key): label for key, label in mapping.items()}


def label_of(labels: Mapping[int, str], index: int) -> str:
    return labels.get(index, f"LABEL_{index}")


def _label_list(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [label.strip(" '\"") for label in value.strip().strip("[]").split(",")]
    if not isinstance(value, list) or not all(isinstance(label, str) and label for label in value):
        raise ModelLoadError(f"{LABELS_FILE}: label_list must be a list of labels: found {value!r}")
    return value


def _index(key: str) -> int:
    try:
        return int(key)
    except ValueError as error:
        raise ModelLoadError(f"{LABELS_FILE}: {key!r} is not the index of a class") from error
