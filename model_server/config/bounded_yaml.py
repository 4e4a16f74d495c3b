"""YAML out of an archive: plain data only, and never more of it than was bargained for."""

from __future__ import annotations

from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000  # counted with every alias written out, which is what reading a merged map costs

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML built without libyaml
    from yaml import SafeLoader  # type: ignore[assignment]


def load_yaml(content: bytes) -> Any:
    """The document as plain Python data.

    Raises:
        ValueError: not YAML, larger than MAX_BYTES, deeper than MAX_DEPTH, or more than MAX_NODES once its aliases
            are written out.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"{len(content)} bytes, the limit is {MAX_BYTES}")
    try:
        _check_extent(content)
        return yaml.load(content, SafeLoader)
    except Exception as error:  # the loader lets KeyError, IndexError and others out for odd tags such as `!!bool x`
        raise ValueError(" ".join(str(error).split())) from error


def _check_extent(content: bytes) -> None:
    open_nodes: list[_OpenNode] = [_OpenNode(None)]
    anchored: dict[str, int] = {}
    for event in yaml.parse(content, SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_OpenNode(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            _close(open_nodes, anchored)
        elif isinstance(event, yaml.AliasEvent):
            open_nodes[-1].size += _size_of(event.anchor, anchored)
        elif isinstance(event, yaml.ScalarEvent):
            open_nodes[-1].size += 1
            if event.anchor is not None:
                anchored[event.anchor] = 1
        if len(open_nodes) > MAX_DEPTH + 1:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        if open_nodes[-1].size > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES} values with aliases written out")


class _OpenNode:
    """A map or list whose end has not come yet, and the number of nodes in it so far."""

    def __init__(self, anchor: str | None) -> None:
        self.anchor = anchor
        self.size = 1


def _close(open_nodes: list[_OpenNode], anchored: dict[str, int]) -> None:
    node = open_nodes.pop()
    open_nodes[-1].size += node.size
    if node.anchor is not None:
        anchored[node.anchor] = node.size


def _size_of(anchor: str | None, anchored: dict[str, int]) -> int:
    if anchor is None or anchor not in anchored:
        raise ValueError(f"alias *{anchor} names nothing before it, or itself")
    return anchored[anchor]
