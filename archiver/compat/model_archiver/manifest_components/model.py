"""`model_archiver.manifest_components.model`."""

from archiver.manifest import ModelEntry as Model

__all__ = ["Model"]
