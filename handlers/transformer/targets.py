"""What a client wants explained: `target` of the request, in every form it may have."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from handlers.errors import PredictionException
from handlers.scalars import as_choice, as_whole_number
from handlers.transformer.settings import MAX_STEPS, METHODS, ExplanationSettings


def explanation_options(options: Mapping[str, Any], defaults: ExplanationSettings) -> ExplanationSettings:
    """The archive's settings with what the request says instead.

    Raises:
        PredictionException: 400 with what is allowed.
    """
    rows = options.get("internal_batch_size")
    key = "n_steps"
    try:
        n_steps = as_whole_number(options.get(key, defaults.n_steps), 1, MAX_STEPS)
        key = "method"
        method = as_choice(options.get(key, defaults.method), METHODS)
        key = "internal_batch_size"
        internal_batch_size = defaults.internal_batch_size if rows is None else as_whole_number(rows, 1)
    except ValueError as error:
        raise PredictionException(f"{key}: {error}", 400) from error
    return ExplanationSettings(n_steps, method, internal_batch_size)


def pair_target(target: object, names: tuple[str, str], sizes: tuple[int, int]) -> tuple[int, int]:
    """Two indices, from (1, 2), [1, 2], {names[0]: 1, names[1]: 2} or any of these as text.

    Raises:
        PredictionException: 400 with the form or the range that is allowed.
    """
    value = evaluated(target)
    if isinstance(value, Mapping) and set(names) <= set(value):
        value = [value[name] for name in names]
    if not isinstance(value, list | tuple) or len(value) != 2:
        allowed = f'[{names[0]}, {names[1]}] or {{"{names[0]}": ..., "{names[1]}": ...}}'
        raise PredictionException(f"target: {target!r} is not allowed; allowed: {allowed}", 400)
    try:
        return as_whole_number(value[0], 0, sizes[0] - 1), as_whole_number(value[1], 0, sizes[1] - 1)
    except ValueError as error:
        raise PredictionException(f"target: ({names[0]}, {names[1]}) of {target!r}: {error}", 400) from error


def evaluated(target: object) -> object:
    """The value a text spells out as a Python or JSON literal; anything else as it is."""
    if not isinstance(target, str):
        return target
    try:
        value: object = ast.literal_eval(target.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return target
    return value
