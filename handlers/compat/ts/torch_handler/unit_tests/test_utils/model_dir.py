"""`ts.torch_handler.unit_tests.test_utils.model_dir`."""

from handlers.model_files import copy_files, download_model

__all__ = ["copy_files", "download_model"]
