"""`model_archiver.model_archiver_config`."""

from archiver.compat.packaging import ModelArchiverConfig

__all__ = ["ModelArchiverConfig"]
