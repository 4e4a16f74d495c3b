"""`ts.model_server`."""

from model_server.compat.starting import load_properties

__all__ = ["load_properties"]
