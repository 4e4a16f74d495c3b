"""`ts.handler_utils.utils`."""

from handlers.modules import import_class
from handlers.streaming import send_intermediate_predict_response

__all__ = ["import_class", "send_intermediate_predict_response"]
