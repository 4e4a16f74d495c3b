"""`ts.protocol.otf_message_handler`: the former place of `send_intermediate_predict_response`."""

from handlers import streaming
from handlers.deprecation import deprecated

send_intermediate_predict_response = deprecated("1.0", "ts.handler_utils.utils.send_intermediate_predict_response")(
    streaming.send_intermediate_predict_response
)

__all__ = ["send_intermediate_predict_response"]
