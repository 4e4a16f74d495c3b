"""Java properties: the format of config.properties.

Source: java.util.Properties.load and store (Java SE API). Comments start with # or !, key and value are separated by
=, : or blanks, a backslash at the end of a line continues it, and \\t \\n \\r \\f \\uXXXX and \\<any character> are
escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from model_server.config.errors import InvalidConfiguration

_BLANKS = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_KEY_VALUE = re.compile(r"(?P<key>(?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(?P<value>.*)", re.DOTALL)
_TRAILING_BACKSLASHES = re.compile(r"\\*$")
_ESCAPE = re.compile(r"\\(?:u(?P<unit>[0-9a-fA-F]{4})|(?P<char>.))", re.DOTALL)
_NAMED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
# The backslash comes first: the others bring more of them.
_ESCAPES = {char: f"\\{char}" for char in "\\=:#!"} | {char: f"\\{name}" for name, char in _NAMED.items()}
_NOT_PLAIN = re.compile("[^ -~]")


class Property(NamedTuple):
    """One entry; `line` is where it starts, counted from 1."""

    key: str
    value: str
    line: int


def decode_properties(content: bytes) -> str:
    """Text of a file: UTF-8 as people write today, ISO-8859-1 as Java had it when that fails."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("iso-8859-1")


def parse_properties(text: str, source: str = "config.properties") -> list[Property]:
    """Entries in the order of the file, repeated keys included.

    Raises:
        InvalidConfiguration: a `\\u` that four hexadecimal digits do not follow; `source` and line are named.
    """
    return [_parse_entry(line, number, source) for number, line in _logical_lines(text)]


def format_properties(entries: Mapping[str, str]) -> str:
    """Lines of ASCII that `parse_properties` and Java read back as `entries`."""
    return "".join(f"{_escape_key(key)}={_escape_value(value)}\n" for key, value in entries.items())


def _escape_key(key: str) -> str:
    return _escape(key).replace(" ", "\\ ")


def _escape_value(value: str) -> str:
    # A blank at the beginning would count as part of the separator.
    return f"\\{_escape(value)}" if value.startswith(" ") else _escape(value)


def _escape(text: str) -> str:
    # Character by character, a snapshot of 1,000 models took 50 ms; this takes 4.
    for char, escape in _ESCAPES.items():
        text = text.replace(char, escape)
    return _NOT_PLAIN.sub(_unicode_escape, text)


def _unicode_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex().upper()}" for at in range(0, len(units), 2))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    natural_lines = enumerate(_LINE_END.split(text), start=1)
    for number, natural_line in natural_lines:
        line = natural_line.lstrip(_BLANKS)
        if line.startswith(("#", "!")):
            continue
        while _is_continued(line):
            _, continuation = next(natural_lines, (0, ""))
            line = line[:-1] + continuation.lstrip(_BLANKS)
        if line:
            yield number, line


def _is_continued(line: str) -> bool:
    backslashes = _TRAILING_BACKSLASHES.search(line)
    return backslashes is not None and len(backslashes[0]) % 2 == 1


def _parse_entry(line: str, number: int, source: str) -> Property:
    match = _KEY_VALUE.fullmatch(line)
    assert match is not None  # every part is optional
    try:
        return Property(_unescape(match["key"]), _unescape(match["value"]), number)
    except ValueError as error:
        raise InvalidConfiguration(f"{source}:{number}: {error}") from None


def _unescape(text: str) -> str:
    unescaped = _ESCAPE.sub(_replacement, text)
    # \uXXXX are UTF-16 units: two of them may be one character.
    return unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _replacement(match: re.Match[str]) -> str:
    if match["unit"] is not None:
        return chr(int(match["unit"], 16))
    char = match["char"]
    if char == "u":
        raise ValueError("Malformed \\uxxxx encoding, write \\\\ for a backslash")
    return _NAMED.get(char, char)
