"""`model_archiver.model_packaging_utils`."""

from archiver.compat.packaging import ModelExportUtils, archiving_options, model_handlers

__all__ = ["ModelExportUtils", "archiving_options", "model_handlers"]
