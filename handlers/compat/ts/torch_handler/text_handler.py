"""`ts.torch_handler.text_handler`."""

from handlers.text import TextHandler

__all__ = ["TextHandler"]
