"""`model_archiver.arg_parser`."""

from archiver.compat.packaging import ArgParser

__all__ = ["ArgParser"]
