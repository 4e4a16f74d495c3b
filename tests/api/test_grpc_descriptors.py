"""Names and numbers of the gRPC interfaces, against tables written down from their specifications."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from model_server.api.grpc import messages

PROTOS = Path(__file__).parents[2] / "protos"

# Message -> "name=number type" of every field; "?": presence is tracked, "*": repeated.
INFERENCE = {
    "PredictionsRequest": "model_name=1 string, model_version=2 string, input=3 map, sequence_id=4 string?",
    "PredictionResponse": "prediction=1 bytes, sequence_id=2 string?, status=3 message?",
    "TorchServeHealthResponse": "health=1 string",
}
MANAGEMENT = {
    "ManagementResponse": "msg=1 string",
    "DescribeModelRequest": "model_name=1 string, model_version=2 string, customized=3 bool",
    "ListModelsRequest": "limit=1 int32, next_page_token=2 int32",
    "RegisterModelRequest": (
        "batch_size=1 int32, handler=2 string, initial_workers=3 int32, max_batch_delay=4 int32, model_name=5 string, "
        "response_timeout=6 int32, runtime=7 string, synchronous=8 bool, url=9 string, s3_sse_kms=10 bool, "
        "startup_timeout=11 int32"
    ),
    "ScaleWorkerRequest": (
        "model_name=1 string, model_version=2 string, max_worker=3 int32, min_worker=4 int32, number_gpu=5 int32, "
        "synchronous=6 bool, timeout=7 int32"
    ),
    "SetDefaultRequest": "model_name=1 string, model_version=2 string",
    "UnregisterModelRequest": "model_name=1 string, model_version=2 string",
}
OPEN_INFERENCE = {
    "ServerLiveResponse": "live=1 bool",
    "ServerReadyResponse": "ready=1 bool",
    "ModelReadyRequest": "name=1 string, version=2 string",
    "ModelReadyResponse": "ready=1 bool",
    "ServerMetadataResponse": "name=1 string, version=2 string, extensions=3 string*",
    "ModelMetadataRequest": "name=1 string, version=2 string",
    "ModelMetadataResponse": (
        "name=1 string, versions=2 string*, platform=3 string, inputs=4 message*, outputs=5 message*"
    ),
    "ModelMetadataResponse.TensorMetadata": "name=1 string, datatype=2 string, shape=3 int64*",
    "ModelInferRequest": (
        "model_name=1 string, model_version=2 string, id=3 string, parameters=4 map, inputs=5 message*, "
        "outputs=6 message*, raw_input_contents=7 bytes*"
    ),
    "ModelInferRequest.InferInputTensor": (
        "name=1 string, datatype=2 string, shape=3 int64*, parameters=4 map, contents=5 message?"
    ),
    "ModelInferRequest.InferRequestedOutputTensor": "name=1 string, parameters=2 map",
    "ModelInferResponse": (
        "model_name=1 string, model_version=2 string, id=3 string, parameters=4 map, outputs=5 message*, "
        "raw_output_contents=6 bytes*"
    ),
    "ModelInferResponse.InferOutputTensor": (
        "name=1 string, datatype=2 string, shape=3 int64*, parameters=4 map, contents=5 message?"
    ),
    "InferParameter": "bool_param=1 bool?, int64_param=2 int64?, string_param=3 string?",
    "InferTensorContents": (
        "bool_contents=1 bool*, int_contents=2 int32*, int64_contents=3 int64*, uint_contents=4 uint32*, "
        "uint64_contents=5 uint64*, fp32_contents=6 float*, fp64_contents=7 double*, bytes_contents=8 bytes*"
    ),
}
HEALTH = {"HealthCheckRequest": "service=1 string", "HealthCheckResponse": "status=1 enum"}
RPC = {
    "Status": "code=1 int32, message=2 string, details=3 message*",
    "ErrorInfo": "reason=1 string, domain=2 string, metadata=3 map",
}
FIELDS = {
    f"{package}.{name}": fields
    for package, table in (
        ("org.pytorch.serve.grpc.inference", INFERENCE),
        ("org.pytorch.serve.grpc.management", MANAGEMENT),
        ("org.pytorch.serve.grpc.openinference", OPEN_INFERENCE),
        ("grpc.health.v1", HEALTH),
        ("google.rpc", RPC),
    )
    for name, fields in table.items()
}

SERVICES = {
    "org.pytorch.serve.grpc.inference.InferenceAPIsService": [
        "Ping: Empty -> TorchServeHealthResponse",
        "Predictions: PredictionsRequest -> PredictionResponse",
        "StreamPredictions: PredictionsRequest -> stream PredictionResponse",
        "StreamPredictions2: stream PredictionsRequest -> stream PredictionResponse",
    ],
    "org.pytorch.serve.grpc.management.ManagementAPIsService": [
        "DescribeModel: DescribeModelRequest -> ManagementResponse",
        "ListModels: ListModelsRequest -> ManagementResponse",
        "RegisterModel: RegisterModelRequest -> ManagementResponse",
        "ScaleWorker: ScaleWorkerRequest -> ManagementResponse",
        "SetDefault: SetDefaultRequest -> ManagementResponse",
        "UnregisterModel: UnregisterModelRequest -> ManagementResponse",
    ],
    "org.pytorch.serve.grpc.openinference.GRPCInferenceService": [
        f"{name}: {name}Request -> {name}Response"
        for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
    ],
    "grpc.health.v1.Health": [
        "Check: HealthCheckRequest -> HealthCheckResponse",
        "Watch: HealthCheckRequest -> stream HealthCheckResponse",
    ],
}

_TYPES = {
    number: name.removeprefix("TYPE_").lower() for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}


def shown(field: descriptor_pb2.FieldDescriptorProto, descriptor: object) -> str:
    type_name = _TYPES[field.type]
    if field.type_name.endswith("Entry"):
        return f"{field.name}={field.number} map"
    if field.label == field.LABEL_REPEATED:
        return f"{field.name}={field.number} {type_name}*"
    is_tracked = field.HasField("oneof_index") or field.type == field.TYPE_MESSAGE
    return f"{field.name}={field.number} {type_name}{'?' if is_tracked else ''}"


@pytest.mark.parametrize("name", FIELDS)
def test_fields(name: str) -> None:
    descriptor = messages.message_class(name).DESCRIPTOR
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    assert ", ".join(shown(field, descriptor) for field in proto.field) == FIELDS[name]


def test_the_input_of_a_prediction_maps_texts_to_bytes() -> None:
    entry = messages.message_class("org.pytorch.serve.grpc.inference.PredictionsRequest").DESCRIPTOR.nested_types[0]
    assert [(field.name, field.number, _TYPES[field.type]) for field in entry.fields] == [
        ("key", 1, "string"),
        ("value", 2, "bytes"),
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_methods(name: str) -> None:
    lines = [
        f"{method.name}: {'stream ' * method.client_streaming}{method.input_type.name}"
        f" -> {'stream ' * method.server_streaming}{method.output_type.name}"
        for method in messages.methods(name)
    ]
    assert lines == SERVICES[name]


def test_the_compiled_descriptors_are_those_of_the_protos(tmp_path: Path) -> None:
    """`make protos` was run after the last change."""
    compiled = tmp_path / "compiled"
    files = ["inference", "management", "open_inference_grpc", "google/rpc/error_details", "grpc/health/v1/health"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}", "--include_imports"]
    command += [f"--descriptor_set_out={compiled}", *(f"{file}.proto" for file in files)]
    subprocess.run(command, check=True)
    kept = resources.files("model_server.api.grpc").joinpath("services.binpb").read_bytes()
    read = descriptor_pb2.FileDescriptorSet.FromString
    assert read(kept) == read(compiled.read_bytes())
