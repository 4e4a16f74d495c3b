"""model-config YAML out of an archive: what is read, and what is refused before it does harm."""

import os
import time

import pytest

from archiver.config_file import check_handler_section, parse_config
from archiver.errors import InvalidConfig


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# only a comment\n", {}),
        ("minWorkers: 1\nhandler:\n  max_length: 150\n", {"minWorkers": 1, "handler": {"max_length": 150}}),
        (
            "base: &b {x: 1}\none: *b\ntwo: {<<: *b, y: 2}\n",
            {"base": {"x": 1}, "one": {"x": 1}, "two": {"x": 1, "y": 2}},
        ),
        ('{"json": [1, 2]}', {"json": [1, 2]}),
    ],
)
def test_mappings(text, expected):
    assert parse_config(text.encode(), "c.yaml") == expected


@pytest.mark.parametrize("text", ["- a\n", "just text", "3", "2020-01-01"])
def test_what_is_no_mapping(text):
    with pytest.raises(InvalidConfig, match=r"^c\.yaml holds .* where a mapping"):
        parse_config(text.encode(), "c.yaml")


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch canary']",
        "!!python/object/new:os.system ['touch canary']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!include /etc/passwd",
        "!custom {a: 1}",
    ],
)
def test_tags_are_refused_with_their_line(tag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfig, match=r"^c\.yaml is not valid YAML: line 2, column 4: .*tag"):
        parse_config(f"a: 1\nb: {tag}\n".encode(), "c.yaml")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "value", ['!!int ""', "!!int x", "!!float x", "!!bool maybe", "!!timestamp x", "!!set x", "2020-99-99"]
)
def test_values_that_are_not_what_their_tag_says(value):
    with pytest.raises(InvalidConfig, match=r"^c\.yaml is not valid YAML: "):
        parse_config(f"a: {value}\n".encode(), "c.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a:\n\t- b\n", "a: b: c", "\0", "a: 'x", "{a: 1, *b}"])
def test_broken_yaml(text):
    with pytest.raises(InvalidConfig, match=r"^c\.yaml"):
        parse_config(text.encode(), "c.yaml")


def test_bytes_that_are_no_text():
    with pytest.raises(InvalidConfig, match=r"^c\.yaml is not valid YAML"):
        parse_config(b"a: \xff\xfe\xfa", "c.yaml")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("a: " + "[" * 200_000, "nested more than 32 deep"),
        ("a: " + "{a: " * 200, "nested more than 32 deep"),
        ("a: &a [x, *a]", "an alias, \\*a, to a value that is not complete"),
        ("a: *none", "an alias, \\*none"),
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)),
            "more than 200,000 values",
        ),
        ("a: " + "x" * (1 << 20), "larger than the allowed 1,048,576 bytes"),
    ],
    ids=["deep list", "deep mapping", "circle", "unknown alias", "billion laughs", "large"],
)
def test_documents_larger_than_they_look(document, reason):
    started = time.monotonic()
    with pytest.raises(InvalidConfig, match=reason):
        parse_config(document.encode(), "c.yaml")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("section", [{}, {"handler": None}, {"handler": {"mode": "x"}}])
def test_handler_sections(section):
    check_handler_section(section, "c.yaml")


@pytest.mark.parametrize("section", ["h.py", ["a"], 3, True])
def test_handler_sections_of_a_wrong_type(section):
    with pytest.raises(InvalidConfig, match=r"^c\.yaml: handler is .* it must be a mapping"):
        check_handler_section({"handler": section}, "c.yaml")
