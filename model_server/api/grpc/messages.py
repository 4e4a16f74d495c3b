"""Message classes and method descriptors, made at import from a set of compiled descriptors.

Generated modules run with the protobuf versions around the one that generated them; descriptors run with all. The set
lies beside this module, `make protos` compiles it from protos/. It lives in a pool of its own, so that it cannot
collide with anybody's generated modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor

INFERENCE = "org.pytorch.serve.grpc.inference"
MANAGEMENT = "org.pytorch.serve.grpc.management"
OPEN_INFERENCE = "org.pytorch.serve.grpc.openinference"
HEALTH = "grpc.health.v1"


def _read_pool() -> descriptor_pool.DescriptorPool:
    compiled = resources.files(__package__).joinpath("services.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _read_pool()


def message_class(full_name: str) -> Any:
    """The class of a message, by its name with package."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(full_name))


def methods(service: str) -> Sequence[MethodDescriptor]:
    """What a service offers, by its name with package."""
    return _POOL.FindServiceByName(service).methods


TorchServeHealthResponse = message_class(f"{INFERENCE}.TorchServeHealthResponse")
PredictionResponse = message_class(f"{INFERENCE}.PredictionResponse")
ManagementResponse = message_class(f"{MANAGEMENT}.ManagementResponse")
HealthCheckResponse = message_class(f"{HEALTH}.HealthCheckResponse")
Status = message_class("google.rpc.Status")
ErrorInfo = message_class("google.rpc.ErrorInfo")
AnyMessage = message_class("google.protobuf.Any")


class PredictionsRequest(Protocol):
    model_name: str
    model_version: str
    input: Mapping[str, bytes]
    sequence_id: str


class ModelVersionRequest(Protocol):
    """SetDefaultRequest, UnregisterModelRequest, and what DescribeModelRequest and ScaleWorkerRequest begin with."""

    model_name: str
    model_version: str


class DescribeModelRequest(ModelVersionRequest, Protocol):
    customized: bool


class ScaleWorkerRequest(ModelVersionRequest, Protocol):
    max_worker: int
    min_worker: int
    synchronous: bool


class ListModelsRequest(Protocol):
    limit: int
    next_page_token: int


class RegisterModelRequest(Protocol):
    batch_size: int
    handler: str
    initial_workers: int
    max_batch_delay: int
    model_name: str
    response_timeout: int
    runtime: str
    synchronous: bool
    url: str
    s3_sse_kms: bool
    startup_timeout: int


class HealthCheckRequest(Protocol):
    service: str
