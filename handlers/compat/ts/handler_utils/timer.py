"""`ts.handler_utils.timer`."""

from handlers.timing import timed

__all__ = ["timed"]
