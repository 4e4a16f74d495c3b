"""`index_to_name.json`: what the outputs of a model are called."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from handlers.documents import read_json
from handlers.errors import ModelLoadError

LABELS_FILE = "index_to_name.json"

Value = TypeVar("Value")

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


def map_class_to_label(
    probs: list[Sequence[Value]],
    mapping: dict[str, str] | None = None,
    lbl_classes: Sequence[Sequence[int]] | None = None,
) -> list[dict[str, Value]]:
    """Rows of probabilities to rows of `{label: probability}`, in the order given.

    Args:
        probs: one list of probabilities, or of whatever belongs to a class, per request.
        mapping: class as text to label; without one the class itself is the label.
        lbl_classes: the classes that a row's probabilities belong to; by default 0, 1, 2, …

    Raises:
        TypeError: `probs` is no list, or `mapping` no dict.
        KeyError: a class that the mapping does not know.
    """
    if not isinstance(probs, list):
        raise TypeError("Convert classes to list before doing mapping")
    if mapping is not None and not isinstance(mapping, dict):
        raise TypeError("Mapping must be a dict")
    classes = [range(len(row)) for row in probs] if lbl_classes is None else lbl_classes
    return [
        {_name_of(index, mapping): probability for index, probability in zip(indices, row, strict=False)}
        for indices, row in zip(classes, probs, strict=False)
    ]


def _name_of(index: int, mapping: dict[str, str] | None) -> str:
    if mapping is None:
        return str(index)
    if str(index) not in mapping:
        raise KeyError(f"{LABELS_FILE} has no label for class {index}")
    return mapping[str(index)]


def _label(value: object) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str):
        raise ModelLoadError(f"labels in index->name mapping must be either str or List[str]: found {value!r}")
    return value
