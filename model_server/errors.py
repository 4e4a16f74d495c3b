"""Everything that can go wrong, as classes; the class is the status.

    ServerError                       500  InternalServerException
    +-- BadRequest                    400  BadRequestException
    |   +-- InvalidModel              400  InvalidModelException
    |   +-- DownloadFailed            400  DownloadArchiveException
    |   +-- InvalidKey                400  InvalidKeyException
    |   +-- InstallationFailed        400  ModelException
    +-- ResourceNotFound              404  ResourceNotFoundException
    |   +-- ModelNotFound             404  ModelNotFoundException
    |   +-- ModelVersionNotFound      404  ModelVersionNotFoundException
    +-- MethodNotAllowed              405  MethodNotAllowedException
    +-- IllegalArgument               403  IllegalArgumentException
    |   +-- DefaultVersionInUse       403  InvalidModelVersionException
    +-- RequestTimeout                408  RequestTimeoutException
    +-- Conflict                      409  ConflictStatusException
    +-- ServiceUnavailable            503  ServiceUnavailableException
    |   +-- QueueFull                 503  ServiceUnavailableException, with Retry-After
    +-- DeadlineExceeded              504  InternalServerException
    +-- WorkersFailed                 500  InternalServerException (507 where memory ran out)
    +-- HandlerFailed                 as the handler's error says; InternalServerException
        +-- WorkerDied                500  InternalServerException (507 after SIGKILL)

`type` is what TorchServe's clients find in an error body, so these names stay. A message begins with TorchServe's
literal text where there is one; what we have to add follows it. It says what was wrong, with the value, and what to do
next. On the inference port it never holds a path, a process id or a traceback; those stand in the log.
"""

from __future__ import annotations

from typing import Literal


class ServerError(Exception):
    """Base of all errors that reach a client.

    Attributes:
        status: HTTP status.
        type: value of `type` in the error body.
        message: text for the client.
    """

    status = 500
    type = "InternalServerException"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status


class BadRequest(ServerError):
    status = 400
    type = "BadRequestException"


class InvalidModel(BadRequest):
    type = "InvalidModelException"


class InvalidKey(BadRequest):
    """A request without the right token. It is told no more than a stranger may know; `check` is TorchServe's word."""

    type = "InvalidKeyException"

    def __init__(self, check: Literal["Authorization", "Authentication"]) -> None:
        super().__init__(f"Token {check} failed. Token either incorrect, expired, or not provided correctly")


class DownloadFailed(BadRequest):
    """An archive cannot be fetched; the message says why."""

    type = "DownloadArchiveException"


class InstallationFailed(BadRequest):
    """The packages that a model asks for could not be installed; the message says why."""

    type = "ModelException"


class ResourceNotFound(ServerError):
    status = 404
    type = "ResourceNotFoundException"

    def __init__(self, message: str = "Requested resource is not found, please refer to API document.") -> None:
        super().__init__(message)


class ModelNotFound(ResourceNotFound):
    type = "ModelNotFoundException"


class ModelVersionNotFound(ResourceNotFound):
    type = "ModelVersionNotFoundException"


class MethodNotAllowed(ServerError):
    status = 405
    type = "MethodNotAllowedException"

    def __init__(self) -> None:
        super().__init__("Requested method is not allowed, please refer to API document.")


class IllegalArgument(ServerError):
    status = 403
    type = "IllegalArgumentException"


class DefaultVersionInUse(IllegalArgument):
    type = "InvalidModelVersionException"


class RequestTimeout(ServerError):
    status = 408
    type = "RequestTimeoutException"


class Conflict(ServerError):
    status = 409
    type = "ConflictStatusException"


class ServiceUnavailable(ServerError):
    status = 503
    type = "ServiceUnavailableException"


class QueueFull(ServiceUnavailable):
    """The queue is full now; `retry_after_s` is a guess at when it will not be."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServerError):
    status = 504


class WorkersFailed(ServerError):
    """Workers did not come up; the message says why."""


class HandlerFailed(ServerError):
    """The handler, or the worker around it, answered with an error."""


class WorkerDied(HandlerFailed):
    """The worker is gone and the request will not be tried again."""
