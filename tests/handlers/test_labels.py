"""The mapping of classes to labels; the shapes of the file itself are tested with BaseHandler."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.labels import load_label_mapping, map_class_to_label


def test_without_the_file_there_is_no_mapping(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_label_mapping(tmp_path / "index_to_name.json") is None
    assert "index_to_name.json is missing" in caplog.text


def test_probabilities_get_the_labels_of_their_classes() -> None:
    mapping = {"0": "cat", "1": "dog", "2": "owl"}
    assert map_class_to_label([[0.7, 0.3]], mapping) == [{"cat": 0.7, "dog": 0.3}]
    assert map_class_to_label([[0.7, 0.3], [0.9, 0.1]], mapping, [[2, 0], [1, 2]]) == [
        {"owl": 0.7, "cat": 0.3},
        {"dog": 0.9, "owl": 0.1},
    ]
    assert map_class_to_label([[0.7, 0.3]], None, [[5, 1]]) == [{"5": 0.7, "1": 0.3}]
    assert map_class_to_label([]) == []


def test_the_order_of_the_classes_is_the_order_of_the_answer() -> None:
    (answer,) = map_class_to_label([[0.5, 0.3, 0.2]], {"0": "cat", "1": "dog", "2": "owl"}, [[2, 1, 0]])
    assert list(answer) == ["owl", "dog", "cat"]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="Convert classes to list before doing mapping"):
        map_class_to_label(((0.7, 0.3),))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Mapping must be a dict"):
        map_class_to_label([[0.7]], ["cat"])  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"index_to_name\.json has no label for class 1"):
        map_class_to_label([[0.7, 0.3]], {"0": "cat"})
