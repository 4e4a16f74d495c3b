"""`ts.handler_utils.micro_batching`."""

from handlers.micro_batching import MicroBatching

__all__ = ["MicroBatching"]
