"""`ts.torch_handler.dali_handler`."""

from handlers.not_yet import DaliHandler as DALIHandler

__all__ = ["DALIHandler"]
