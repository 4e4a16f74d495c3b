"""`model_archiver.manifest_components.manifest`."""

from archiver.compat.manifest import Manifest, RuntimeType

__all__ = ["Manifest", "RuntimeType"]
