"""`ts.version`."""

from handlers.compat import TORCHSERVE_VERSION as __version__

__all__ = ["__version__"]
