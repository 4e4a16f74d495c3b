"""Errors of the server -> gRPC status codes and descriptions, as TorchServe's clients know them."""

from __future__ import annotations

from dataclasses import dataclass

from grpc import StatusCode

from model_server.errors import (
    BadRequest,
    DeadlineExceeded,
    HandlerFailed,
    InvalidKey,
    MethodNotAllowed,
    RequestTimeout,
    ResourceNotFound,
    ServerError,
    ServiceUnavailable,
)

# Descriptions travel in trailers, of which clients accept 8 KiB, with up to three bytes for each byte of text.
_LONGEST_TEXT_BYTES = 2000

# TorchServe's packages; every other type is one of its `org.pytorch.serve.http`.
_PACKAGES = {
    "DownloadArchiveException": "org.pytorch.serve.archive",
    **dict.fromkeys(
        (
            "InvalidModelException",
            "InvalidModelVersionException",
            "ModelException",
            "ModelNotFoundException",
            "ModelVersionNotFoundException",
        ),
        "org.pytorch.serve.archive.model",
    ),
}

_CODES_BY_STATUS: dict[int, StatusCode] = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.ABORTED,
    413: StatusCode.RESOURCE_EXHAUSTED,
    416: StatusCode.OUT_OF_RANGE,
    429: StatusCode.RESOURCE_EXHAUSTED,
    499: StatusCode.CANCELLED,
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
}
_CODES_BY_FAMILY = {4: StatusCode.FAILED_PRECONDITION, 5: StatusCode.INTERNAL}


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call fails. `exception`: TorchServe's name of the class; None: the description does without."""

    code: StatusCode
    message: str
    exception: str | None

    @property
    def description(self) -> str:
        text = self.message.encode(errors="replace")
        shown = text[:_LONGEST_TEXT_BYTES].decode(errors="ignore") + ("..." if len(text) > _LONGEST_TEXT_BYTES else "")
        return shown if self.exception is None else f"{shown}\n{self.exception}"


class CallFailed(ServerError):
    """Carries a failure that is not the usual one of its service."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def stopping() -> CallFailed:
    """What ends a call that could go on for ever, when the server is told to stop."""
    return CallFailed(Failure(StatusCode.UNAVAILABLE, "The server is stopping.", None))


def inference_failure(error: ServerError) -> Failure:
    """Only what the worker decides has a code of its own; what the server decides is INTERNAL."""
    if (own := _own_failure(error)) is not None:
        return own
    if isinstance(error, HandlerFailed | DeadlineExceeded):
        return Failure(code_of_status(error.status), error.message, "org.pytorch.serve.http.InternalServerException")
    if isinstance(error, ServiceUnavailable):
        return Failure(StatusCode.INTERNAL, error.message, "InternalServerException.()")
    if isinstance(error, BadRequest):
        return Failure(StatusCode.INTERNAL, error.message, "BadRequestException.()")
    return Failure(StatusCode.INTERNAL, error.message, _qualified(error))


# The first class that an error is an instance of counts.
_MANAGEMENT_CODES: tuple[tuple[type[ServerError], StatusCode], ...] = (
    (ResourceNotFound, StatusCode.NOT_FOUND),
    (BadRequest, StatusCode.INVALID_ARGUMENT),
    (RequestTimeout, StatusCode.DEADLINE_EXCEEDED),
)
# TorchServe does not expect these itself, and its clients see the code of what nobody expects.
_UNEXPECTED_THERE = (403, 409)


def management_failure(error: ServerError) -> Failure:
    if (own := _own_failure(error)) is not None:
        return own
    if isinstance(error, MethodNotAllowed):
        return Failure(
            StatusCode.PERMISSION_DENIED, "Model API disabled", "org.pytorch.serve.archive.model.ModelException"
        )
    default = StatusCode.UNKNOWN if error.status in _UNEXPECTED_THERE else StatusCode.INTERNAL
    code = next((code for kind, code in _MANAGEMENT_CODES if isinstance(error, kind)), default)
    return Failure(code, error.message, _qualified(error))


def code_of_status(status: int) -> StatusCode:
    """The code for an HTTP status that a handler chose."""
    return _CODES_BY_STATUS.get(status) or _CODES_BY_FAMILY.get(status // 100, StatusCode.UNKNOWN)


def _own_failure(error: ServerError) -> Failure | None:
    if isinstance(error, InvalidKey):
        return Failure(StatusCode.PERMISSION_DENIED, error.message, None)
    return error.failure if isinstance(error, CallFailed) else None


def _qualified(error: ServerError) -> str:
    return f"{_PACKAGES.get(error.type, 'org.pytorch.serve.http')}.{error.type}"
