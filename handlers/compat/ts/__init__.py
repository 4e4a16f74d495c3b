"""TorchServe's import names. Every module below only re-exports; it is loaded under its name in `ts`."""

from handlers.compat import TORCHSERVE_VERSION as __version__

__all__ = ["__version__"]
