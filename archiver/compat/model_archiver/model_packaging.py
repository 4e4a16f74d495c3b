"""`model_archiver.model_packaging`."""

from archiver.compat.packaging import (
    ArgParser,
    ModelArchiver,
    ModelArchiverConfig,
    ModelExportUtils,
    generate_model_archive,
    package_model,
)

__all__ = [
    "ArgParser",
    "ModelArchiver",
    "ModelArchiverConfig",
    "ModelExportUtils",
    "generate_model_archive",
    "package_model",
]
