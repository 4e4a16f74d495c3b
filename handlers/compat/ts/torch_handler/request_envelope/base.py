"""`ts.torch_handler.request_envelope.base`."""

from handlers.envelopes.base import BaseEnvelope

__all__ = ["BaseEnvelope"]
