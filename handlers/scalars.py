"""Values of model-config.yaml and of requests, read strictly but kindly: "150" is a number and "true" is a flag.

Every function raises ValueError with a sentence that names the value and what is allowed; the caller adds where it
stood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def as_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    flag = _FLAGS.get(str(value).strip().lower())
    if flag is None:
        raise ValueError(f"{value!r} is not allowed; allowed: true, false")
    return flag


def as_whole_number(value: object, low: int, high: int | None = None) -> int:
    """An int within [low, high]; numeric strings count, booleans and fractions do not."""
    number = _whole(value)
    if number is None or number < low or (high is not None and number > high):
        limits = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{value!r} is not allowed; allowed: a whole number {limits}")
    return number


def as_number(value: object, above: float, at_most: float = math.inf) -> float:
    """A finite float within (above, at_most]; numeric strings count, booleans do not."""
    number = _real(value)
    if number is None or not above < number <= at_most:
        limits = f"above {above:g}" if at_most == math.inf else f"above {above:g}, at most {at_most:g}"
        raise ValueError(f"{value!r} is not allowed; allowed: a number {limits}")
    return number


def as_choice(value: object, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ValueError(f"{value!r} is not allowed; allowed: {', '.join(allowed)}")
    return str(value)


def _whole(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def _real(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
