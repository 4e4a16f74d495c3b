"""Guess which known name a mistyped one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The most similar of `known`, at least `cutoff` (0 to 1) alike; case, `_`, `-`, `.` and blanks do not count."""
    by_bare = {_bare(candidate): candidate for candidate in known}
    matches = difflib.get_close_matches(_bare(name), by_bare, n=1, cutoff=cutoff)
    return by_bare[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`, did you mean X?`, or nothing when there is no likely candidate."""
    candidate = nearest(name, known)
    return f", did you mean {candidate}?" if candidate else ""


def _bare(name: str) -> str:
    # Names come from files: a very long one would only cost time.
    return name[:100].lower().translate(str.maketrans("", "", "_-. "))
