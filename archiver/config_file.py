"""Reading model-config YAML from an archive: safe types only, and no document larger than it looks.

`yaml.safe_load` alone does not suffice. The C loader overruns its stack on deep nesting, and a few lines of aliases
expand to billions of values as soon as anything walks the result; both are found here from the event stream.
"""

from typing import Any

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event, ScalarEvent

from archiver.errors import InvalidConfig

MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_VALUES = 200_000

# The plain exceptions come out of PyYAML's own constructors, for `!!int ""`, `!!bool maybe` and `!!timestamp x`.
_YAML_FAILURES = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_config(data: bytes, name: str) -> dict[str, Any]:
    """The mapping in a model-config file; an empty file is an empty mapping.

    Raises:
        InvalidConfig: not YAML, tags other than YAML's own, too large, or not a mapping; names the file and the line.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise InvalidConfig(f"{name} is larger than the allowed {MAX_CONFIG_BYTES:,} bytes.")
    try:
        _ExpandedSize(name).check(data)
        config = yaml.load(data, _SafeLoader)  # noqa: S506  (a safe loader, chosen above)
    except _YAML_FAILURES as error:
        raise InvalidConfig(f"{name} is not valid YAML: {_one_line(error)}.") from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise InvalidConfig(f"{name} holds {config!r:.60} where a mapping (key: value) belongs.")
    return config


def check_handler_section(config: dict[str, Any], name: str) -> None:
    """Raises InvalidConfig when `handler:` is there and is not a mapping."""
    section = config.get("handler")
    if section is not None and not isinstance(section, dict):
        raise InvalidConfig(
            f"{name}: handler is {section!r:.60}; it must be a mapping of settings. "
            "The handler itself is chosen with --handler."
        )


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else str(problem)


class _ExpandedSize:
    """Counts values as if every alias were written out.

    The state is the sizes of the collections that are open and of the anchors that are complete.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._open: list[tuple[str | None, int]] = []
        self._anchors: dict[str, int] = {}

    def check(self, data: bytes) -> None:
        for event in yaml.parse(data, _SafeLoader):
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, CollectionStartEvent):
            self._open.append((event.anchor, 1))
            if len(self._open) > MAX_DEPTH:
                raise self._too_much(event, f"values nested more than {MAX_DEPTH} deep")
        elif isinstance(event, CollectionEndEvent):
            self._add(event, *self._open.pop())
        elif isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise self._too_much(event, f"an alias, *{event.anchor}, to a value that is not complete")
            self._add(event, None, self._anchors[event.anchor])
        elif isinstance(event, ScalarEvent):
            self._add(event, event.anchor, 1)

    def _add(self, event: Event, anchor: str | None, size: int) -> None:
        if anchor:
            self._anchors[anchor] = size
        if self._open:
            parent_anchor, parent_size = self._open[-1]
            self._open[-1] = (parent_anchor, parent_size + size)
            if parent_size + size > MAX_VALUES:
                raise self._too_much(event, f"more than {MAX_VALUES:,} values, aliases written out")

    def _too_much(self, event: Event, what: str) -> InvalidConfig:
        line = f", line {event.start_mark.line + 1}" if event.start_mark else ""
        return InvalidConfig(f"{self._name}{line}: {what}. Write a plainer file.")
