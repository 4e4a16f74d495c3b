"""`model_archiver.version`."""

from archiver.compat.manifest import TORCH_MODEL_ARCHIVER_VERSION as __version__

__all__ = ["__version__"]
