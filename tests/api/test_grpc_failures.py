"""Codes and descriptions of errors over gRPC, against TorchServe's."""

from __future__ import annotations

import pytest

from model_server.api.grpc.failures import Failure, code_of_status, inference_failure, management_failure
from model_server.errors import (
    BadRequest,
    Conflict,
    DeadlineExceeded,
    DefaultVersionInUse,
    HandlerFailed,
    InstallationFailed,
    InvalidKey,
    InvalidModel,
    MethodNotAllowed,
    ModelNotFound,
    QueueFull,
    RequestTimeout,
    ServerError,
    WorkerDied,
    WorkersFailed,
)

# TorchServe's table of HTTP statuses and gRPC codes, with one of the rest of each family.
CODES = """
200 UNKNOWN
302 UNKNOWN
400 INVALID_ARGUMENT
401 UNAUTHENTICATED
403 PERMISSION_DENIED
404 NOT_FOUND
408 FAILED_PRECONDITION
409 ABORTED
413 RESOURCE_EXHAUSTED
416 OUT_OF_RANGE
429 RESOURCE_EXHAUSTED
499 CANCELLED
500 INTERNAL
501 UNIMPLEMENTED
503 UNAVAILABLE
504 DEADLINE_EXCEEDED
507 INTERNAL
599 INTERNAL
"""


@pytest.mark.parametrize("row", CODES.strip().splitlines())
def test_the_code_of_a_status(row: str) -> None:
    status, code = row.split()
    assert code_of_status(int(status)).name == code


INTERNAL_SERVER = "org.pytorch.serve.http.InternalServerException"


@pytest.mark.parametrize(
    ("error", "code", "exception"),
    [
        (BadRequest("t"), "INTERNAL", "BadRequestException.()"),
        (QueueFull("t", 1), "INTERNAL", "InternalServerException.()"),
        (ModelNotFound("t"), "INTERNAL", "org.pytorch.serve.archive.model.ModelNotFoundException"),
        (HandlerFailed("t", status=404), "NOT_FOUND", INTERNAL_SERVER),
        (WorkerDied("t", status=507), "INTERNAL", INTERNAL_SERVER),
        (DeadlineExceeded("t"), "DEADLINE_EXCEEDED", INTERNAL_SERVER),
        (ServerError("t"), "INTERNAL", INTERNAL_SERVER),
    ],
)
def test_failures_of_inference(error: ServerError, code: str, exception: str) -> None:
    failure = inference_failure(error)
    assert (failure.code.name, failure.description) == (code, f"t\n{exception}")


@pytest.mark.parametrize(
    ("error", "code", "exception"),
    [
        (BadRequest("t"), "INVALID_ARGUMENT", "org.pytorch.serve.http.BadRequestException"),
        (InvalidModel("t"), "INVALID_ARGUMENT", "org.pytorch.serve.archive.model.InvalidModelException"),
        (InstallationFailed("t"), "INVALID_ARGUMENT", "org.pytorch.serve.archive.model.ModelException"),
        (ModelNotFound("t"), "NOT_FOUND", "org.pytorch.serve.archive.model.ModelNotFoundException"),
        (WorkersFailed("t"), "INTERNAL", INTERNAL_SERVER),
        (Conflict("t"), "UNKNOWN", "org.pytorch.serve.http.ConflictStatusException"),
        (DefaultVersionInUse("t"), "UNKNOWN", "org.pytorch.serve.archive.model.InvalidModelVersionException"),
        (RequestTimeout("t"), "DEADLINE_EXCEEDED", "org.pytorch.serve.http.RequestTimeoutException"),
    ],
)
def test_failures_of_management(error: ServerError, code: str, exception: str) -> None:
    failure = management_failure(error)
    assert (failure.code.name, failure.description) == (code, f"t\n{exception}")


def test_a_disabled_model_api() -> None:
    failure = management_failure(MethodNotAllowed())
    text = "Model API disabled\norg.pytorch.serve.archive.model.ModelException"
    assert (failure.code.name, failure.description) == ("PERMISSION_DENIED", text)


@pytest.mark.parametrize("translate", [inference_failure, management_failure])
def test_a_refused_token_is_told_without_a_class(translate: object) -> None:
    assert callable(translate)
    failure = translate(InvalidKey("Authorization"))
    assert isinstance(failure, Failure)
    text = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    assert (failure.code.name, failure.description) == ("PERMISSION_DENIED", text)


@pytest.mark.parametrize(
    ("message", "begins"), [("x" * 9000, "x" * 2000 + "...\n"), ("ü" * 9000, "ü" * 1000 + "...\n"), ("\ud800", "?\n")]
)
def test_descriptions_fit_into_trailers(message: str, begins: str) -> None:
    description = inference_failure(ServerError(message)).description
    assert description == begins + INTERNAL_SERVER
