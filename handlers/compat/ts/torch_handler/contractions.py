"""`ts.torch_handler.contractions`."""

from handlers.contractions import CONTRACTION_MAP

__all__ = ["CONTRACTION_MAP"]
