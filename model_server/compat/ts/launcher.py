"""`ts.launcher`."""

from model_server.compat.starting import register_model, register_model_with_params, start, stop

__all__ = ["register_model", "register_model_with_params", "start", "stop"]
