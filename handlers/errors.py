"""Errors that a handler raises to choose its own answer, and errors of loading a model.

Exception
+-- PredictionException   this request is answered with `error_code` and `message`
+-- RequestCancelled      nobody waits for the batch any more
+-- ModelLoadError        the model cannot be loaded; the message says what is missing and what to do
"""


class PredictionException(Exception):
    """Answers the request with a status of the handler's choice.

    Args:
        message: text for the client.
        error_code: HTTP status, 500 unless given. Use 400 for input the model cannot take. What is no number is 500.
    """

    # For subclasses whose __init__ does not call this one.
    message: str = "Prediction failed"
    error_code: int = 500

    def __init__(self, message: str, error_code: int = 500) -> None:
        self.message = message
        self.error_code = error_code if isinstance(error_code, int) else 500
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


class RequestCancelled(Exception):
    """Raised in a handler that streams when every client of its batch has gone away."""


class ModelLoadError(RuntimeError):
    """Raised by `initialize` when the archive does not hold what its handler needs."""
