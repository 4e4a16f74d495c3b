"""`deprecated`: marks functions that have moved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def deprecated(
    version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """A decorator that warns whoever calls the function, each time.

    Args:
        version: the one in which the function will be gone.
        replacement: where it lives now.
        klass: the kind of warning.
    """

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(function)
        def warned(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            moved = f" and moved to {replacement}" if replacement else ""
            warnings.warn(f"{function.__name__} is deprecated in {version}{moved}", klass, stacklevel=2)
            return function(*args, **kwargs)

        return warned

    return decorate
