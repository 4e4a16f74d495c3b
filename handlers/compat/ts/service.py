"""`ts.service`: what handlers import from it."""

from handlers.errors import PredictionException

__all__ = ["PredictionException"]
