"""Java properties; expected values from the examples and rules of java.util.Properties.load (Java SE API)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_server.config.errors import InvalidConfiguration
from model_server.config.properties import Property, decode_properties, format_properties, parse_properties


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # the three forms of the Java documentation
        ("Truth = Beauty", [("Truth", "Beauty")]),
        (" Truth:Beauty", [("Truth", "Beauty")]),
        ("Truth                    :Beauty", [("Truth", "Beauty")]),
        # its continued list
        (
            "fruits                           apple, banana, pear, \\\n"
            "                                 cantaloupe, watermelon, \\\n"
            "                                 kiwi, mango",
            [("fruits", "apple, banana, pear, cantaloupe, watermelon, kiwi, mango")],
        ),
        ("cheeses", [("cheeses", "")]),
        ("\\:\\= = x", [(":=", "x")]),
        ("# a=b\n  ! c=d\n\n \t\ne=f", [("e", "f")]),
        ("# not continued \\\na=b", [("a", "b")]),
        ("a=b\\\n# not a comment", [("a", "b# not a comment")]),
        ("a=b\\\\\nc=d", [("a", "b\\"), ("c", "d")]),
        ("a=b\\\\\\\n  c", [("a", "b\\c")]),
        ("a=b\\", [("a", "b")]),
        ("a b c", [("a", "b c")]),
        ("a = = b", [("a", "= b")]),
        ("a=1\ra2=2\r\na3=3", [("a", "1"), ("a2", "2"), ("a3", "3")]),
        ("a=x\\r\\n", [("a", "x\r\n")]),
        ("path=C\\:\\\\models", [("path", "C:\\models")]),
        ("a=\\t\\n\\u0041\\z", [("a", "\t\nAz")]),
        ("a=\\uD83D\\uDE00", [("a", "\U0001f600")]),
        ("k\\ ey=v", [("k ey", "v")]),
        ("a=trailing  ", [("a", "trailing  ")]),
        ("", []),
        ("\\", []),
    ],
)
def test_entries(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(entry.key, entry.value) for entry in parse_properties(text)] == expected


def test_lines_are_those_where_entries_start() -> None:
    text = "# comment\na=1\n\nb=2\\\n   3\nc=4"
    assert parse_properties(text) == [Property("a", "1", 2), Property("b", "23", 4), Property("c", "4", 6)]


def test_repeated_keys_are_all_there() -> None:
    assert [entry.value for entry in parse_properties("a=1\na=2")] == ["1", "2"]


def test_models_of_the_shipped_configuration() -> None:
    text = 'models={\\\n  "bert": {\\\n    "1.0": {\\\n        "batchSize": 4\\\n    }\\\n  }\\\n}\n'
    assert parse_properties(text)[0].value == '{"bert": {"1.0": {"batchSize": 4}}}'


@pytest.mark.parametrize("value", ["\\u12", "\\uzzzz", "C:\\users"])
def test_malformed_unicode_escape_names_file_and_line(value: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"^Invalid configuration: my\.properties:2: Malformed"):
        parse_properties(f"a=b\nc={value}", "my.properties")


def test_file_encodings() -> None:
    assert decode_properties("a=ü".encode()) == "a=ü"
    assert decode_properties("\ufeffa=b".encode()) == "a=b"
    assert decode_properties("a=ü".encode("iso-8859-1")) == "a=ü"


def escaped(text: str, is_key: bool) -> str:
    """What java.util.Properties.store writes: everything special behind a backslash, the rest as UTF-16 units."""
    special = "\\=:#! \t\n\r\f" if is_key else "\\\t\n\r\f"
    names = {"\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}

    def one(index: int, char: str) -> str:
        if char in names:
            return names[char]
        if char in special or (char == " " and index == 0):
            return f"\\{char}"
        if " " <= char <= "~":
            return char
        units = char.encode("utf-16-be")
        return "".join(f"\\u{units[i]:02X}{units[i + 1]:02X}" for i in range(0, len(units), 2))

    return "".join(one(index, char) for index, char in enumerate(text))


# One character of a key at least; a surrogate alone is no character.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.tuples(texts.filter(bool), texts), max_size=5))
def test_what_java_stores_is_read_back(entries: list[tuple[str, str]]) -> None:
    document = "\n".join(f"{escaped(key, True)}={escaped(value, False)}" for key, value in entries)
    assert [(entry.key, entry.value) for entry in parse_properties(document)] == entries


@given(st.text("ab=: \\\n\r\t#!u0", max_size=60))
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    line_count = len(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    try:
        entries = parse_properties(text)
    except InvalidConfiguration as error:
        assert "Malformed" in str(error)
        return
    numbers = [entry.line for entry in entries]
    assert numbers == sorted(set(numbers)) and all(1 <= number <= line_count for number in numbers)


# --- writing ---


def test_lines_are_written_as_java_writes_them() -> None:
    """By the table of escapes of java.util.Properties.store, and what TorchServe 0.12 has written of the same text."""
    entries = {
        "some_unknown": "x y\u00e9: =#!",
        "inference_address": "http://127.0.0.1:45189",
        "a key": "  two\tblanks ",
        "model_snapshot": '{\n  "name": "\\\\"\r\f}',
        "beyond": "\U0001f600",
    }
    assert format_properties(entries).splitlines() == [
        r"some_unknown=x y\u00E9\: \=\#\!",
        r"inference_address=http\://127.0.0.1\:45189",
        r"a\ key=\  two\tblanks ",
        r'model_snapshot={\n  "name"\: "\\\\"\r\f}',
        r"beyond=\uD83D\uDE00",
    ]


def test_what_is_written_is_read_again() -> None:
    everything = "".join(map(chr, range(0x250))) + "\u2028\U0001f600"
    entries = {everything: everything, "empty": "", " ": " \t"}
    assert {entry.key: entry.value for entry in parse_properties(format_properties(entries))} == entries
