"""torch-model-archiver's import names. Every module here only re-exports."""

from archiver.compat.manifest import TORCH_MODEL_ARCHIVER_VERSION as __version__
from archiver.compat.packaging import ModelArchiver, ModelArchiverConfig

__all__ = ["ModelArchiver", "ModelArchiverConfig", "__version__"]
