"""`model_archiver.model_archiver_error`."""

from archiver.errors import ArchiverError as ModelArchiverError

__all__ = ["ModelArchiverError"]
